"""`patchscaler upscale DIR -o OUT`: a folder of pictures; patches share batches, and what is done
is done once.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchscaler._version import __version__
from patchscaler.apps.cli import cluster
from patchscaler.apps.cli import picture_options as pictures
from patchscaler.apps.cli.status_line import StatusLine
from patchscaler.errors import PatchScalerError


def add_options(up: Any) -> None:
    folders = up.add_argument_group("folders")
    folders.add_argument(
        "--recursive",
        action="store_true",
        help="into the folders below, which OUT then has as well",
    )
    folders.add_argument(
        "--again", action="store_true", help="also what an earlier run with these options has done"
    )
    folders.add_argument(
        "--json", action="store_true", help="say in JSON what became of every file"
    )


def is_one(args: argparse.Namespace) -> bool:
    """Raises PatchScalerError for folders that cannot be, and for options that need one."""
    found = [name for name in args.inputs if Path(name).is_dir()]
    if not found:
        if args.recursive or args.json or args.again:
            raise PatchScalerError(
                "--recursive, --again and --json are for a folder of pictures: upscale DIR -o OUT"
            )
        return False
    if len(args.inputs) > 1:
        raise PatchScalerError(f"{found[0]}: is a folder; give one folder alone, or pictures")
    if args.output is None:
        raise PatchScalerError(f"{found[0]}: is a folder; say where its pictures go with -o OUT")
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise PatchScalerError(
            f"-o {args.output}: is a file; a folder of pictures goes to a folder"
        )
    if Path(args.output).resolve() == Path(found[0]).resolve():
        raise PatchScalerError(
            f"-o {args.output}: that is where the pictures come from; give another folder"
        )
    if args.redo:
        raise PatchScalerError("--redo is for one picture: name it instead of its folder")
    return True


def upscale_folder(
    args: argparse.Namespace, limit: int, options_of: Callable[[Any], dict[str, Any]]
) -> int:
    """-> exit code: 0, 1 where a picture failed, 130 where the user stopped it."""
    from patchscaler.folders import Status, Summary, find_pictures
    from patchscaler.images.write import check_writable

    source, out = Path(args.inputs[0]), Path(args.output)
    found, summary = find_pictures(source, args.recursive, out, args.videos), Summary()
    check_writable(out / "picture.png")
    summary.passed_over = [
        {"source": str(path), "reason": reason} for path, reason in found.passed_over
    ]
    model = cluster.load(args)
    options = options_of(model)
    args.quiet = args.quiet or args.json
    run = _FolderRun(
        model, options, args, limit, source, out, Status(out, _key(model, options, args)), summary
    )
    try:
        with cluster.executor_of(args, model) as args.executor:
            run.all(found.pictures)
    except KeyboardInterrupt as error:
        summary.interrupted = True
        if text := str(error):
            print(f"patchscaler: {text}", file=sys.stderr)
    if args.json:
        print(json.dumps(asdict(summary)))
    else:
        for entry in summary.passed_over:
            print(f"{entry['source']}: passed over, {entry['reason']}", file=sys.stderr)
        for line in summary.lines():
            print(line, file=sys.stderr if summary.failed or summary.interrupted else sys.stdout)
    return 130 if summary.interrupted else 1 if summary.failed else 0


def _key(model: Any, options: dict[str, Any], args: argparse.Namespace) -> str:
    """Of everything that decides about the results."""
    from patchscaler.dials.record import options_record, weights_of

    files = {
        n: getattr(args, n)
        for n in (
            "format",
            "quality",
            "lossless",
            "suffix",
            "bits",
            "tileable",
            "pyramid",
            "no_provenance",
            "report",
            "save_difficulty",
            "save_coarse",
            "codec",
            "crf",
            "no_audio",
        )
    }
    about = [
        __version__,
        options_record(model.options(**options)),
        weights_of(model),
        model.compute_signature,
        files,
        [args.scale, args.width, args.height, args.megapixels],
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class _Item:
    """A picture that was checked. What goes by itself is read when its turn comes."""

    path: Path
    target: Path
    picture: Any = None
    planes: Any = None


class _FolderRun:
    """One call: the pictures of a folder in batches."""

    def __init__(
        self,
        model: Any,
        options: dict[str, Any],
        args: argparse.Namespace,
        limit: int,
        source: Path,
        out: Path,
        status: Any,
        summary: Any,
    ):
        self.model, self.options, self.args, self.limit = model, options, args, limit
        self.source, self.out, self.status, self.summary = source, out, status, summary
        self.taken: set[Path] = set()

    def all(self, paths: list[Path]) -> None:
        from patchscaler.folders import batches

        inputs = {pictures.real_path(path) for path in paths}
        todo = []
        for path in paths:
            name = os.path.relpath(path, self.source)
            if self._is_done(path, name):
                self.summary.done_before.append(str(path))
                self.taken.add(pictures.real_path(self.out / self.status.entries[name].target))
            else:
                todo.append(path)
        later: list[tuple[Path, Path]] = []
        self._in_batches(batches(self._opened(todo, inputs)), later)
        for path, target in later:
            self._alone(path, target, inputs)

    def _is_done(self, path: Path, name: str) -> bool:
        try:
            return not self.args.again and not self.args.dry_run and self.status.is_done(path, name)
        except OSError:  # it vanished, and will be named as a failure
            return False

    def _checked(self, path: Path, inputs: set[Path]) -> tuple[Any, Path]:
        place = self.out / os.path.relpath(path.parent, self.source)
        return pictures.checked(path, place, None, inputs, self.taken, self.limit, self.args)

    def _opened(self, paths: list[Path], inputs: set[Path]) -> Iterator[tuple[int, _Item]]:
        """(pixels, item): checked and, where they share batches, read."""
        from patchscaler.images.read import Picture

        for path in paths:
            try:
                picture, target = self._checked(path, inputs)
                if not isinstance(picture, Picture) or self._by_itself():
                    yield 1 << 60, _Item(path, target)  # a batch of its own
                    continue
                size = picture.width * picture.height
                if not pictures.is_one_pass(picture, self.model, pictures.target_size(self.args)):
                    size = 1 << 60
                item = _Item(path, target, picture, pictures.planes_of(picture, path))
            except (PatchScalerError, OSError, MemoryError) as error:
                self._failed(path, error)
                continue
            yield size, item

    def _in_batches(self, items: Iterator[list[_Item]], later: list[tuple[Path, Path]]) -> None:
        """Patches of a batch's pictures are sampled together; batches may be under way at once.
        later: what goes by itself.
        """
        from patchscaler.apps.cli.upscale import write

        given: deque[tuple[list[_Item], Any, float]] = deque()

        def calls() -> Iterator[tuple[Any, ...]]:
            for batch in items:
                if batch[0].picture is None:
                    later.append((batch[0].path, batch[0].target))
                    continue
                bar = StatusLine(
                    batch[0].path.name + (f" and {len(batch) - 1} more" if batch[1:] else ""),
                    self.args.quiet,
                )
                given.append((batch, bar, time.perf_counter()))
                keywords = self.options | {
                    "memory_limit": self.args.memory_limit,
                    "progress": bar.patch_steps,
                }
                yield [item.planes for item in batch], pictures.target_size(self.args), keywords

        for results in self.args.executor.map("batch", calls()):
            batch, bar, began = given.popleft()
            bar.close()
            for item, made in zip(batch, results, strict=True):
                with _Outcome(self, item.path, item.target):
                    if isinstance(made, PatchScalerError):
                        raise made
                    write(
                        self.model,
                        item.picture,
                        made,
                        item.path,
                        item.target,
                        self.args,
                        None,
                        began,
                    )

    def _by_itself(self) -> bool:
        return pictures.alone(self.args) or self.args.tileable

    def _alone(self, path: Path, target: Path, inputs: set[Path]) -> None:
        """Read only now, so that a folder's pictures are not all in memory before the first is
        made.
        """
        from patchscaler.apps.cli.upscale import upscale_one

        with _Outcome(self, path, target):
            self.taken.discard(pictures.real_path(target))  # it was this picture that claimed it
            picture, target = self._checked(path, inputs)
            report = (
                Path(self.args.report) / os.path.relpath(path, self.source)
                if self.args.report
                else None
            )
            upscale_one(self.model, picture, path, target, self.options, self.args, report)

    def _failed(self, path: Path, error: BaseException) -> None:
        text = str(error) or type(error).__name__
        self.summary.failed.append({"source": str(path), "error": text.removeprefix(f"{path}: ")})
        if not self.args.json:
            print(f"patchscaler: {text}", file=sys.stderr)


class _Outcome:
    """Books a picture as done or failed; only Ctrl-C gets through."""

    def __init__(self, run: _FolderRun, path: Path, target: Path):
        self.run, self.path, self.target = run, path, target

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        run = self.run
        if error is None and not run.args.dry_run:
            try:
                run.status.add(self.path, os.path.relpath(self.path, run.source), self.target)
            except OSError as lost:
                error = lost
        if error is None:
            run.summary.done.append({"source": str(self.path), "target": str(self.target)})
        elif isinstance(error, PatchScalerError | OSError | MemoryError):
            run._failed(self.path, error)
        else:
            return False
        return True
