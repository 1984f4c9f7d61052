"""`proxylib` and `python -m proxylib`: the study's command line."""


def main() -> None:
    try:
        from proxylib.study.cli import app
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "proxylib":
            raise
        raise SystemExit(
            f"the command needs {error.name}, which comes with the study: "
            "pip install 'proxylib[study]'"
        ) from None
    app(prog_name="proxylib")


if __name__ == "__main__":
    main()
