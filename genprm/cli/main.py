"""`genprm`: the commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from genprm import __version__
from genprm.cli import (
    bench,
    calibrate,
    demo,
    doctor,
    label,
    loop,
    merge,
    options,
    refine,
    sandbox,
    search,
    serve,
    show,
    synthesize,
    train,
    verify,
    view,
)
from genprm.cli.boundary import INTERRUPTED, TERMINATED, end_now, set_output
from genprm.cli.grammar import Command, Root
from genprm.cli.terminal import accept_any_text

app = typer.Typer(
    name="genprm",
    cls=Root,
    help="Judges every step of a solution with a generative process reward model that checks its work with code.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"genprm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="GENPRM_DEBUG", help="Show tracebacks and logs instead of short messages.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Print what genprm and other libraries log; a run's folder has it in run.log."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors alone: no progress, no remarks.")
    ] = False,
) -> None:
    """Takes the options of all commands; these may stand anywhere on the command line."""
    del version
    set_output(debug=debug, verbose=verbose, quiet=quiet)
    if not debug:
        # Silences progress bars and messages of other libraries; each has its own variable.
        for name, value in {
            "TQDM_DISABLE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }.items():
            os.environ.setdefault(name, value)


options.command(app, "verify", epilog=verify.EPILOG)(verify.verify)
options.command(app, "search", epilog=search.EPILOG)(search.search)
options.command(app, "refine", epilog=refine.EPILOG)(refine.refine)
options.command(app, "label", epilog=label.EPILOG)(label.label)
options.command(app, "synthesize", epilog=synthesize.EPILOG)(synthesize.synthesize)
options.command(app, "loop", epilog=loop.EPILOG)(loop.loop)
app.command("show", cls=Command)(show.show)
options.command(app, "serve", epilog=serve.EPILOG)(serve.serve)
app.command("view", cls=Command)(view.view)
app.command("merge", cls=Command)(merge.merge)
app.add_typer(train.app, name="train")
app.add_typer(bench.app, name="bench")
app.command("calibrate", cls=Command)(calibrate.calibrate)
app.command("demo", cls=Command)(demo.demo)
app.command("doctor", cls=Command)(doctor.doctor)
app.add_typer(sandbox.app, name="sandbox")


def main() -> None:
    """Entry point of the `genprm` script."""
    accept_any_text()
    try:
        app()
    except SystemExit as done:
        if done.code in (INTERRUPTED, TERMINATED):
            # A thread may still be reading standard input, which would abort the interpreter.
            end_now(done.code)
        raise


if __name__ == "__main__":
    main()
