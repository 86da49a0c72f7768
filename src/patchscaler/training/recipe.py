"""`patchscaler train recipe`: all stages of a training in order, from a small text file.

A line of a recipe is a command as it would be typed, without `patchscaler`: `train STAGE ...` or
`memory build ...`, with `#` comments, {placeholders} for what differs from place to place, and a
backslash where it goes on in the next line. `with esrgan: ` and `without esrgan: ` before a command
take it only where --esrgan is given, or is not. Each line goes through the parser of the command
line itself, so that every default is said once. What is finished is kept in
MODEL/training/recipe.log.
"""

import argparse
import csv
import os
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patchscaler.errors import PatchScalerError
from patchscaler.models.checksums import write_text
from patchscaler.training.loop import Watch, watched

RECIPES = Path(__file__).parents[1] / "recipes"
PLACEHOLDERS = ("model", "data", "images", "textures", "esrgan", "eta")
# folders may be moved, and {eta} comes of the training itself
NOT_IN_KEY = ("model", "data", "eta")
ETA = 1.25  # times the median squared error of the GRM (docs/training.md)
GRACE = 60.0  # seconds that other processes wait for the first one's word after the time is up


class LineParser(argparse.ArgumentParser):
    """Raises in place of leaving the program."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise PatchScalerError(message)


@dataclass(frozen=True)
class Line:
    """A command of a recipe, its placeholders not yet filled in."""

    number: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """train grm, memory build."""
        return " ".join(self.words[:2])


class Recipe:
    """A recipe and what fills its placeholders. parser: of the commands, a `LineParser`.

    places: placeholder -> what the user gave. shared: options that every line gets where it takes
    them. scale: of each line's --steps and --minutes. Raises PatchScalerError, with the number of
    the line, for what cannot run.
    """

    def __init__(
        self,
        source: str,
        places: dict[str, str],
        parser: LineParser,
        shared: dict[str, str],
        scale: float = 1.0,
    ):
        if scale <= 0:
            raise PatchScalerError(f"--scale {scale:g}: take more than 0")
        self.source, self.places, self.parser, self.shared, self.scale = (
            source,
            places,
            parser,
            shared,
            scale,
        )
        self.lines: list[Line] = []
        self.left_out: list[str] = []
        for number, text in _commands(_read(source)):
            try:
                self._add(number, shlex.split(text, comments=True))
            except ValueError as error:  # a quotation mark without its other
                raise self.wrong(number, str(error)) from error
        if not self.lines:
            raise PatchScalerError(f"recipe {source}: no command in it")
        for line in self.lines:
            self.arguments(line, eta="0.1")  # wrong lines are found before the first one runs

    def wrong(self, number: int, message: str) -> PatchScalerError:
        return PatchScalerError(f"recipe {self.source}, line {number}: {message}")

    def _add(self, number: int, words: list[str]) -> None:
        if words and words[0] in ("with", "without"):
            given = words[1].rstrip(":") if len(words) > 1 else ""
            if given not in PLACEHOLDERS or not words[1].endswith(":"):
                raise self.wrong(number, f"'{' '.join(words[:2])}': write 'with esrgan: train ...'")
            if (words[0] == "with") != (given in self.places):
                self.left_out.append(f"{' '.join(words[2:4])} ({words[0]} --{given} only)")
                return
            words = words[2:]
        if words:
            if words[:2] != ["memory", "build"] and (
                words[0] != "train" or words[1:2] in ([], ["recipe"])
            ):
                raise self.wrong(
                    number,
                    f"'{' '.join(words[:2])}': a line is 'train STAGE ...' or 'memory build ...'",
                )
            self.lines.append(Line(number, tuple(words)))

    def _filled(self, line: Line, places: dict[str, str]) -> list[str]:
        def fill(found: re.Match[str]) -> str:
            name = found[1]
            if name in places:
                return places[name]
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{x}}}" for x in PLACEHOLDERS)
                raise self.wrong(
                    line.number, f"unknown placeholder {{{name}}}: choose from {known}"
                )
            raise self.wrong(line.number, f"{{{name}}} is wanted: add --{name}")

        return [re.sub(r"\{(\w*)\}", fill, word) for word in line.words]

    def arguments(self, line: Line, eta: str = "") -> argparse.Namespace:
        """The line as the command line would understand it."""
        places = self.places | {"eta": eta or self._eta(line)}
        words = self._filled(line, places)
        try:
            args = self.parser.parse_args(words)
            more = [
                word
                for name, value in self.shared.items()
                if name in args
                and f"--{name}" not in words
                and not (name == "device" and words[1] == "shards")
                for word in (f"--{name}", value)
            ]  # shards are made on the processor, by as many workers as their line says
            args = self.parser.parse_args(words + more)
        except PatchScalerError as error:
            raise self.wrong(line.number, str(error)) from error
        except SystemExit as error:  # --help
            raise self.wrong(line.number, "not a command that trains") from error
        if getattr(args, "steps", 0):
            args.steps = max(1, round(args.steps * self.scale))
        if getattr(args, "minutes", 0):
            args.minutes *= self.scale
        return args

    def key(self, line: Line) -> str:
        """How recipe.log names the command."""
        words = self._filled(line, self.places | {name: f"{{{name}}}" for name in NOT_IN_KEY})
        return " ".join(words) + (f"  # times {self.scale:g}" if self.scale != 1 else "")

    def _eta(self, line: Line) -> str:
        """1.25 of the GRM's median squared error, where the line asks for it: C then has its median
        at about .70.
        """
        if not any("{eta}" in word for word in line.words):
            return ""
        log = Path(self.places["model"]) / "training" / "grm" / "log.csv"
        rows = list(csv.reader(log.read_text().splitlines())) if log.exists() else []
        found = [row[3] for row in rows if row[2:3] == ["val/median_error"]]
        if not found:
            raise self.wrong(
                line.number,
                f"{{eta}} is {ETA} of the median_error in {log}, which has none: write a number "
                "there",
            )
        return f"{ETA * float(found[-1]):.5g}"


def _commands(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, command); a line that ends in a backslash goes on in
    the next one.
    """
    first, begun = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        first, begun = (first, begun + line) if begun else (number, line)
        if begun.endswith("\\"):
            begun = begun[:-1] + " "
            continue
        yield first, begun
        begun = ""
    if begun:
        yield first, begun


def _read(source: str) -> str:
    shipped = RECIPES / f"{source}.txt"
    try:
        if re.fullmatch(r"\w+", source) and shipped.is_file():
            return shipped.read_text("utf-8")
        return Path(source).read_text("utf-8")
    except FileNotFoundError as error:
        known = " or ".join(sorted(file.stem for file in RECIPES.glob("*.txt")))
        raise PatchScalerError(
            f"unknown recipe '{source}': choose {known}, or name a file"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PatchScalerError(
            f"recipe {source}: not a text file that can be read ({error})"
        ) from error


# --- running --------------------------------------------------------------------------------------


@dataclass
class Done:
    """A line of recipe.log."""

    key: str
    minutes: float
    waiting: float | None  # for data, share; None where a stage has no training loop

    def text(self) -> str:
        waiting = "-" if self.waiting is None else f"{self.waiting:.4f}"
        return f"{self.minutes:.2f}\t{waiting}\t{self.key}\n"


class Log:
    """MODEL/training/recipe.log: what is finished, in order."""

    def __init__(self, model: str):
        self.path = Path(model) / "training" / "recipe.log"

    def read(self) -> list[Done]:
        if not self.path.exists():
            return []
        done = []
        for text in self.path.read_text("utf-8").splitlines():
            try:
                minutes, waiting, key = text.split("\t", 2)
                done.append(Done(key, float(minutes), None if waiting == "-" else float(waiting)))
            except ValueError as error:
                raise PatchScalerError(
                    f"{self.path}: '{text[:40]}' is no line of it; remove the file, and each "
                    "stage is looked at again"
                ) from error
        return done

    def write(self, done: list[Done]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(d.text() for d in done))


def run_recipe(recipe: Recipe, minutes: float = 0.0) -> bool:
    """Run what is not done yet -> True when all of it is. minutes: of this run, 0 for no limit.

    With several processes (torchrun, accelerate) all of them train; what trains nothing is done by
    the first.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    first = int(os.environ.get("RANK", "0")) == 0
    log = Log(recipe.places["model"])
    done = log.read()
    for line, d in zip(recipe.lines, done, strict=False):
        if recipe.key(line) != d.key:
            raise recipe.wrong(
                line.number,
                f"{log.path} says that '{d.key}' was done in its place: name another --model, "
                "or put the line back as it was (new ones go to the end)",
            )
    if first and recipe.left_out:
        print("left out: " + ", ".join(recipe.left_out), flush=True)
    for i, line in enumerate(recipe.lines):
        if i < len(done):
            continue
        place = f"[{i + 1}/{len(recipe.lines)}] {line.name}"
        loops = "save_minutes" in recipe.arguments(line, eta="0.1")
        if not loops and not first:
            if not _wait(log, i, deadline):
                return False
            done = log.read()[: i + 1]
            continue
        if not loops and time.monotonic() >= deadline:
            print(f"time is up before {place}; the same command goes on", flush=True)
            _report(recipe, done)
            return False
        if first:
            print(f"{place}: {recipe.key(line)}", flush=True)
        watch = Watch(deadline)
        began = time.monotonic()
        try:
            with watched(watch):
                args = recipe.arguments(line)
                args.function(args)
        except PatchScalerError as error:
            raise recipe.wrong(line.number, str(error)) from error
        if watch.out_of_time:
            if first:
                print(
                    f"time is up in {place}, after {watch.minutes:.1f} min of it; the same "
                    "command goes on"
                )
                _report(recipe, done)
            return False
        took = watch.minutes if loops else (time.monotonic() - began) / 60
        done = [*done, Done(recipe.key(line), took, watch.waiting)]
        if first:
            log.write(done)
    if first:
        _report(recipe, done)
    return True


def _wait(log: Log, i: int, deadline: float) -> bool:
    """For the first process to finish line i -> False where its time was up before."""
    while len(log.read()) <= i:
        if time.monotonic() > deadline + GRACE:
            return False
        time.sleep(1)
    return True


def _report(recipe: Recipe, done: list[Done]) -> None:
    if not done:
        return
    print(f"{'stage':24s} {'minutes':>8s}  waiting for data")
    for line, d in zip(recipe.lines, done, strict=False):
        waiting = "-" if d.waiting is None else f"{d.waiting:.1%}"
        print(f"{line.number:3d} {line.name:20s} {d.minutes:8.1f}  {waiting:>16s}")
    print(f"{'':24s} {sum(d.minutes for d in done):8.1f}", flush=True)
