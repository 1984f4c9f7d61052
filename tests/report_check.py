"""Opens every page of a report in headless Chromium: python tests/report_check.py FOLDER.

Each page is shown in frames as wide as a desktop and as a phone, served from this machine. Fails
if the console has an error, a picture does not load or has no alt text, or a page is wider than
its frame. Says so and passes if there is no Chromium.
"""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

WIDTHS = (1280, 390)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FRAME = """<!doctype html><title>waiting</title><iframe src="/{page}" width="{width}" height="800"
style="border:0"></iframe><script>
onload = async () => {{
  const inside = document.querySelector("iframe").contentDocument, images = [...inside.images];
  const wide = inside.documentElement.scrollWidth;
  if (wide > {width}) console.error(`{page} is ${{wide}} pixels wide in a frame of {width}`);
  if (images.some(i => !i.alt || !i.naturalWidth)) console.error("{page}: a picture is missing");
  if (!inside.querySelector("h1")) console.error("{page} has no title");
  document.title = "done";
}};</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the folder, and for /frame/WIDTH/PAGE that page in a frame."""

    def do_GET(self) -> None:
        if not self.path.startswith("/frame/"):
            return super().do_GET()
        _, _, width, page = self.path.split("/")
        text = FRAME.format(page=page, width=width).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


def problems(chromium: str, url: str) -> list[str]:
    """What the console says, or that the page did not finish."""
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--enable-logging=stderr", "--window-size=1400,900", "--timeout=60000"]
        command += [f"--user-data-dir={profile}", "--virtual-time-budget=20000", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return found if "<title>done" in done.stdout else [*found, f"{url} did not finish"]


def main(folder: Path) -> int:
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    pages = sorted(path.name for path in folder.glob("*.html"))
    if not chromium or not pages:
        print("nothing checked:", "no Chromium here" if pages else f"no pages in {folder}")
        return 0 if pages else 1
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = []
    for page in pages:
        for width in WIDTHS:
            url = f"http://127.0.0.1:{server.server_port}/frame/{width}/{page}"
            found += problems(chromium, url)
    server.shutdown()
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(pages)} pages at {len(WIDTHS)} widths: {len(found)} problems")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
