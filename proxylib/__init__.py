"""Distance metric learning with proxies: models, losses, bounds and a reproducible study.

Implements US 10,387,749 B2 ("the patent") and arXiv 1703.07464 ("the paper"), Proxy-NCA.
"""

from importlib.metadata import version

__version__ = version("proxylib")
