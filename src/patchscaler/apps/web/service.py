"""Jobs in front of one model: one after the other, watched, bounded in time, given up when their
visitor leaves.
"""

import os
import re
import shutil
import sys
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from patchscaler.apps.web.folder import Folder
from patchscaler.apps.web.jobs import Gone, Job, Pace, Step, Watched, Zip
from patchscaler.apps.web.limits import ENLARGED, Dials, Limits, check_picture
from patchscaler.apps.web.views import make_views
from patchscaler.dials.boxes import Change
from patchscaler.dials.report import read_report
from patchscaler.dials.saved import find_saved, redo_file
from patchscaler.errors import PatchScalerError, TooManyPixelsError
from patchscaler.folders import Summary
from patchscaler.images.sizes import TargetSize
from patchscaler.pipeline import PatchScaler
from patchscaler.streaming.files import FileOptions, upscale_file

LONGEST_NAME = 80  # of the input's name in the output's
# patches of a batch on a processor: a visitor who leaves, or whose time is up, is noticed behind
# each
WAVE = 16
NO_ROOM = (
    "there is no room for more results at the moment: save yours and load the page anew, "
    "or try again later"
)
GONE = "the picture is no longer here (they are removed after a while); upload it again"


class Service:
    """One model, one folder, one job at a time.

    A visitor is a string that stands for a browser's page or a client.
    """

    def __init__(
        self, scaler: PatchScaler, limits: Limits | None = None, parent: str | Path | None = None
    ):
        self.scaler, self.limits = scaler, limits or Limits()
        self.folder = Folder(self.limits.keep, parent)
        self.lock = threading.Lock()
        self.pace = Pace()

    # --- jobs: iterators of Steps, the result last; PatchScalerErrors in words for a page ---------

    def enlarge(self, visitor: str, upload: Any, dials: Dials) -> Iterator[Step | Job]:
        """One picture."""

        def work(folder: Path, watch: Watched) -> Job:
            source, (width, height) = self._taken(folder, upload, visitor, dials.target_size)
            one_pass = dials.target_size.scale == self.scaler.config.scale and dials.budget is None
            watch.expected = self.pace.expected(width * height) if one_pass else {}
            result = self._made(folder, source, dials, watch, folder / "out" / "report")
            job = self._finished(folder, source, result, (width, height), watch)
            if one_pass:
                self.pace.learn(watch.end(), width * height)
            return job

        return self._run(visitor, work)

    def redo(self, visitor: str, earlier: Job, change: Change) -> Iterator[Step | Job]:
        """The same picture with a box made again; the earlier one stays as it is."""

        def work(folder: Path, watch: Watched) -> Job:
            source, result = (
                folder / "in" / earlier.source.name,
                folder / "out" / earlier.result.name,
            )
            _link(earlier.source, source)
            _link(earlier.result, result)
            shutil.copytree(earlier.report, result.parent / "report")
            self._redone(source, result, change, watch, result.parent / "report")
            return self._finished(folder, source, result, earlier.size, watch)

        return self._run(visitor, work)

    def redo_files(
        self, visitor: str, small: Any, large: Any, change: Change
    ) -> Iterator[Step | Job]:
        """The same of two uploads, a picture and what was made of it; the latter's metadata say
        how.
        """

        def work(folder: Path, watch: Watched) -> Job:
            source, size = self._taken(folder, small, visitor, TargetSize(scale=1))
            file = self.folder.uploaded(large, visitor)
            check_picture(
                file, TargetSize(scale=1), Limits(max_pixels=ENLARGED * self.limits.max_pixels)
            )
            result = folder / "out" / file.name
            _link(file, result)
            self._check_own(result)
            self._redone(source, result, change, watch, None)
            return Job(folder, source, result, {}, {}, size, watch.seconds)

        return self._run(visitor, work)

    def zip(self, visitor: str, uploads: Sequence[Any], dials: Dials) -> Iterator[Step | Zip]:
        """Several pictures; one that fails is named, the rest go on."""
        if not uploads:
            raise PatchScalerError("choose some pictures first")
        if self.limits.files and len(uploads) > self.limits.files:
            raise PatchScalerError(
                f"{len(uploads)} pictures are more than the {self.limits.files} taken at once"
            )

        def work(folder: Path, watch: Watched) -> Zip:
            summary, file = Summary(), folder / "out" / "patchscaler.zip"
            file.parent.mkdir()
            # pictures are packed already
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for n, upload in enumerate(uploads):
                    name, place = Path(str(upload)).name, folder / str(n)
                    watch.picture = f"{n + 1} of {len(uploads)}, {name}"
                    try:
                        self._check_room()
                        source, _ = self._taken(place, upload, visitor, dials.target_size)
                        result = self._made(place, source, dials, watch, None)
                        entry = _unused(result, set(archive.namelist()))
                        archive.write(result, entry)
                        summary.done.append({"source": name, "target": entry})
                    except PatchScalerError as error:
                        if watch.late:
                            raise
                        reason = self.words(error).removeprefix(f"{name}: ")
                        summary.failed.append({"source": name, "error": reason})
                    finally:
                        shutil.rmtree(place, ignore_errors=True)
                failures = [f"{failed['source']}: {failed['error']}" for failed in summary.failed]
                if failures:
                    archive.writestr("failed.txt", "\n".join(failures) + "\n")
            if not summary.done:
                raise PatchScalerError("; ".join(failures))
            return Zip(file, summary, watch.seconds)

        return self._run(visitor, work)

    # --- the parts of a job -----------------------------------------------------------------------

    def _taken(
        self, folder: Path, upload: Any, visitor: str, target_size: TargetSize
    ) -> tuple[Path, tuple[int, int]]:
        """An upload, checked -> its place in the job's folder, (width, height)."""
        file = self.folder.uploaded(upload, visitor)
        size = check_picture(file, target_size, self.limits)
        source = folder / "in" / file.name
        _link(file, source)
        return source, size

    def _made(
        self, folder: Path, source: Path, dials: Dials, watch: Watched, report: Path | None
    ) -> Path:
        name = f"{source.stem[:LONGEST_NAME]}_{dials.target_size.label()}.png"
        result = folder / "out" / name
        result.parent.mkdir(exist_ok=True)
        watch("windows restored", 0, 1)
        upscale_file(
            self.scaler,
            source,
            result,
            target_size=dials.target_size,
            watch=watch,
            files=FileOptions(report=report),
            max_pixels=self.limits.max_pixels,
            max_patches=WAVE if self.scaler.device.type == "cpu" else None,
            **dials.keywords(),
        )
        return result

    def _redone(
        self, source: Path, result: Path, change: Change, watch: Watched, report: Path | None
    ) -> None:
        watch("redo", 0, 1)
        made = redo_file(
            self.scaler,
            source,
            result,
            [change],
            report,
            progress=lambda done, total: watch("redo", done, total),
        )
        if made is None:
            raise PatchScalerError(
                f"{result}: does not tell how it was made; give a result of this page, unchanged"
            )

    def _check_own(self, result: Path) -> None:
        """Patches that overlap more than the model's are many more, and nothing stops their making
        in between.
        """
        saved = find_saved(None, result)
        if saved and saved.options["groups"].overlap != self.scaler.config.groups.overlap:
            raise PatchScalerError(
                f"{result}: its patches overlap otherwise than this page's; the command "
                "`patchscaler upscale` redoes it"
            )

    def _check_room(self) -> None:
        if self.limits.disk_bytes and self.folder.size() > self.limits.disk_bytes:
            raise PatchScalerError(NO_ROOM)

    def _finished(
        self, folder: Path, source: Path, result: Path, size: tuple[int, int], watch: Watched
    ) -> Job:
        watch("views", 0, 1)
        report = result.parent / "report"
        views = make_views(source, result, report, folder / "views")
        return Job(folder, source, result, read_report(report), views, size, watch.seconds)

    # --- running them -----------------------------------------------------------------------------

    def _run(self, visitor: str, work: Callable[[Path, Watched], Any]) -> Iterator[Any]:
        """Do it in a thread and tell how far it is.

        Closed before its end, the work stops at its next step.
        """
        watch, outcome = Watched(self.limits.seconds), list[Any]()

        def run() -> None:
            try:
                with self.lock:
                    outcome.append(self._kept(visitor, work, watch))
            except BaseException as error:
                outcome.append(error)
            finally:
                watch.finished.set()

        threading.Thread(target=run, name="patchscaler-job", daemon=True).start()
        try:
            while not watch.finished.wait(0.25):
                yield watch.step()
        finally:
            watch.left = True
        result = outcome[0]
        if isinstance(result, PatchScalerError):
            raise PatchScalerError(self.words(result)) from result
        if isinstance(result, BaseException):
            traceback.print_exception(result, file=sys.stderr)
            raise PatchScalerError(
                "something went wrong here; the server's log says what"
            ) from result
        yield result

    def _kept(self, visitor: str, work: Callable[[Path, Watched], Any], watch: Watched) -> Any:
        """The job's folder is there while it works and after it ended well."""
        self.folder.sweep()
        self._check_room()
        folder = self.folder.new_job()
        watch.start()
        try:
            result = work(folder, watch)
            if watch.left:
                raise Gone
        except FileNotFoundError as error:
            self.folder.remove(folder)
            raise PatchScalerError(GONE) from error
        except BaseException:
            self.folder.remove(folder)
            raise
        self.folder.keep_job(folder, visitor)
        return result

    def words(self, error: PatchScalerError) -> str:
        """For somebody before a page: no paths, no options of a command line."""
        place = rf"{re.escape(str(self.folder.path))}/[\w-]+/(\d+/)?((in|out)/)?"
        text = re.sub(place, "", str(error))
        if isinstance(error, TooManyPixelsError):
            name = text.split(f": {error.width}x")[0]
            return (
                f"{name}: {error.width}x{error.height} pixels are more than the "
                f"{error.limit / 1e6:g} megapixels "
                "taken here; make it smaller first"
            )
        return text


def _link(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(old, new)
        return
    shutil.copyfile(old, new)


def _unused(result: Path, names: set[str]) -> str:
    """A name in the zip: two inputs may have the same."""
    name, n = result.name, 1
    while name in names:
        n += 1
        name = f"{result.stem} ({n}){result.suffix}"
    return name
