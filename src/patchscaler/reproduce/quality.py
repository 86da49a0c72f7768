"""Tables 1 and 2: quality beside other methods."""

from collections.abc import Sequence

from patchscaler.errors import PatchScalerError
from patchscaler.evaluation.specs import Settings, build_method, parse_specs
from patchscaler.reproduce.measuring import COLUMNS, Entry, Measuring, measure
from patchscaler.reproduce.paper import NO_REFERENCE, TABLE_1, TABLE_2, VARIANTS, Scores
from patchscaler.reproduce.report import WEIGHTS, Report, order_lines
from patchscaler.reproduce.sources import Source

DEFAULT_METHODS = "bicubic,realsr-jpeg,realesrgan-x4plus,ours"
# A method's kind or name -> the paper's row. Others find theirs by name:
# `spandrel:FILE,name=BSRGAN`.
PAPER_NAMES = {
    "ours": "PatchScaler",
    "realesrgan-x4plus": "Real-ESRGAN",
    "realsr-jpeg": "RealSR-JPEG",
    "ldm": "LDM",
}


def method_entries(specs: str, paper: dict[str, Scores], settings: Settings) -> list[Entry]:
    """All rows of the paper, those of `specs` measured; methods the paper has not come first."""
    own: list[Entry] = []
    rows = {
        name: Entry(name, scores, None, "not among --methods") for name, scores in paper.items()
    }
    for spec in parse_specs(specs):
        name = next((PAPER_NAMES[n] for n in (spec.name, spec.kind) if n in PAPER_NAMES), spec.name)
        if name in paper and rows[name].method is not None:
            name = spec.name
        entry = rows[name] if name in paper else Entry(spec.name)
        try:
            entry.method, entry.reason = build_method(spec, settings), ""
        except PatchScalerError as error:
            entry.reason = str(error)
        if name not in paper:
            own.append(entry)
    return own + list(rows.values())


def table1(
    specs: str, settings: Settings, sources: Sequence[Source], measuring: Measuring
) -> Report:
    """LSDIR-Test."""
    report = Report("table1", "Table 1: LSDIR-Test", COLUMNS)
    for source in sources:
        prefix = f"{source.name}, " if len(sources) > 1 else ""
        measure(report, method_entries(specs, TABLE_1, settings), source, measuring, prefix)
    report.differs = [WEIGHTS, VARIANTS]
    if any(source.described.get("collection") != "lsdir" for source in sources):
        report.differs.append(
            "Other images than LSDIR's: compare the order of methods, not the values."
        )
    report.differs += [
        "The paper drew its 2,000 images at random from all of LSDIR and did not publish which. "
        "Here they are validation and test, and training images chosen by the hash of their names "
        "where the test is missing.",
        "Center crops of 512 pixels, degraded by ResShift's test settings ('mild'), each seeded "
        "by its name; the paper gives neither crop nor seed, and its resizes are not antialiased.",
        *order_lines(report.rows, (*NO_REFERENCE, "PSNR", "LPIPS")),
    ]
    return report


def table2(
    specs: str, settings: Settings, sources: Sequence[Source], measuring: Measuring
) -> Report:
    """Real images: RealSR, and RealSet80 or RealSet65 for the unpublished RealSet110."""
    report = Report("table2", "Table 2: real images", COLUMNS, differs=[WEIGHTS, VARIANTS])
    for source in sources:
        same = source.name.startswith("realsr") and source.described.get("collection") is not None
        paper = TABLE_2["RealSR" if same else "RealSet110"]
        before = len(report.rows)
        entries = method_entries(specs, paper, settings)
        measure(report, entries, source, measuring, f"{source.name}, ")
        if not same:
            report.differs.append(
                f"{source.name} stands beside the paper's RealSet110, which was not published: "
                "compare the order of methods, not the values."
            )
        if source.name == "realsr":
            report.differs.append(
                "RealSR in full size, as ResShift measures; the paper does not say whether it "
                "cropped."
            )
        lines = order_lines(report.rows[before:], NO_REFERENCE)
        report.differs += [f"{source.name}: {line}" for line in lines]
    return report
