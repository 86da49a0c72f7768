"""What the paper prints (arXiv 2405.17158): its tables and the settings behind them, as data."""

from dataclasses import dataclass

# The paper's names of metrics -> ours. It names no variant; these are the likely ones, by the size
# of its values.
METRICS = {
    "PSNR": "psnr-y",
    "SSIM": "ssim-y",
    "LPIPS": "lpips-alex",
    "ManIQA": "maniqa-koniq",
    "CLIPIQA": "clipiqa+",
    "MUSIQ": "musiq-koniq",
}
FULL_REFERENCE, NO_REFERENCE = ("PSNR", "SSIM", "LPIPS"), ("ManIQA", "CLIPIQA", "MUSIQ")

VARIANTS = (
    "The paper names no variant of its metrics. ManIQA is taken as KonIQ's and CLIPIQA as "
    "CLIPIQA+, by the size of its values; PSNR and SSIM are of Y without a border cut off. Do not "
    "set these beside tables of other variants."
)

Scores = dict[str, float]


def _rows(columns: tuple[str, ...], rows: dict[str, tuple[float, ...]]) -> dict[str, Scores]:
    return {name: dict(zip(columns, values, strict=True)) for name, values in rows.items()}


TABLE_1 = _rows(
    FULL_REFERENCE + NO_REFERENCE,
    {
        "RealSR-JPEG": (22.09, 0.4819, 0.3982, 0.3647, 0.6466, 62.47),
        "BSRGAN": (23.74, 0.5748, 0.3336, 0.4069, 0.6853, 69.09),
        "Real-ESRGAN": (23.08, 0.5758, 0.3234, 0.4335, 0.6810, 69.91),
        "SwinIR-GAN": (23.05, 0.5698, 0.3262, 0.4195, 0.6833, 68.72),
        "LDM": (24.14, 0.5630, 0.3323, 0.3466, 0.6735, 61.83),
        "StableSR": (23.09, 0.5664, 0.3170, 0.4772, 0.6739, 69.91),
        "ResShift": (23.75, 0.5686, 0.3102, 0.5141, 0.6919, 69.62),
        "DiffBIR": (23.33, 0.5305, 0.3469, 0.5406, 0.6726, 69.78),
        "PASD": (21.02, 0.4940, 0.3651, 0.5177, 0.6847, 71.91),
        "PatchScaler": (22.02, 0.5080, 0.3663, 0.5843, 0.6955, 72.17),
    },
)
TABLE_2 = {
    "RealSR": _rows(
        NO_REFERENCE,
        {
            "RealSR-JPEG": (0.1710, 0.5267, 33.69),
            "BSRGAN": (0.3787, 0.5512, 63.20),
            "Real-ESRGAN": (0.3811, 0.5492, 60.56),
            "SwinIR-GAN": (0.3583, 0.5669, 59.23),
            "LDM": (0.2631, 0.5617, 47.72),
            "StableSR": (0.3992, 0.5350, 61.33),
            "ResShift": (0.3821, 0.5694, 58.81),
            "DiffBIR": (0.4546, 0.5762, 62.75),
            "PASD": (0.4656, 0.5607, 67.44),
            "PatchScaler": (0.5085, 0.5577, 65.02),
        },
    ),
    "RealSet110": _rows(
        NO_REFERENCE,
        {
            "RealSR-JPEG": (0.3030, 0.7588, 54.03),
            "BSRGAN": (0.3870, 0.7918, 67.13),
            "Real-ESRGAN": (0.3779, 0.7844, 65.05),
            "SwinIR-GAN": (0.3598, 0.8009, 63.92),
            "LDM": (0.2834, 0.7628, 55.01),
            "StableSR": (0.3856, 0.7851, 62.08),
            "ResShift": (0.4011, 0.7584, 62.07),
            "DiffBIR": (0.4933, 0.7756, 66.75),
            "PASD": (0.4378, 0.7608, 66.03),
            "PatchScaler": (0.5040, 0.8038, 68.27),
        },
    ),
}
# The paper's Table 3: seconds on one A100; PatchScaler's second figure is on two.
TABLE_3: dict[int, dict[str, float]] = {
    256: {
        "SwinIR-GAN": 0.30,
        "LDM": 5.14,
        "StableSR": 7.27,
        "ResShift": 1.44,
        "DiffBIR": 19.43,
        "PASD": 6.06,
        "PatchScaler": 1.29,
        "PatchScaler, two devices": 0.88,
    },
    512: {
        "SwinIR-GAN": 1.55,
        "LDM": 25.82,
        "StableSR": 35.22,
        "ResShift": 14.89,
        "DiffBIR": 78.12,
        "PASD": 59.03,
        "PatchScaler": 3.41,
        "PatchScaler, two devices": 2.26,
    },
}
Three = tuple[int, int, int]


@dataclass(frozen=True)
class Setting:
    """One row of Table 4: start times and steps of simple, medium and hard patches."""

    times: Three
    steps: Three
    scores: Scores


def _setting(times: Three, steps: Three, *scores: float) -> Setting:
    return Setting(times, steps, dict(zip(NO_REFERENCE, scores, strict=True)))


DEFAULT_TIMES: Three = (400, 700, 1000)
DEFAULT_STEPS: Three = (8, 14, 20)
TABLE_4 = (
    _setting((1000, 1000, 1000), (20, 20, 20), 0.5094, 0.7975, 68.98),
    _setting((700, 700, 1000), (20, 20, 20), 0.4995, 0.7931, 68.35),
    _setting((400, 700, 1000), (20, 20, 20), 0.4940, 0.7986, 68.46),
    _setting((400, 700, 700), (20, 20, 20), 0.4852, 0.7924, 67.62),
    _setting((400, 400, 400), (20, 20, 20), 0.4460, 0.7918, 63.82),
    _setting((400, 700, 1000), (14, 14, 20), 0.4983, 0.7995, 68.55),
    _setting((400, 700, 1000), (8, 14, 20), 0.5040, 0.8038, 68.27),
    _setting((400, 700, 1000), (8, 14, 14), 0.5002, 0.7803, 67.21),
    _setting((400, 700, 1000), (8, 8, 8), 0.4889, 0.7866, 65.62),
)
TABLE_5 = _rows(
    NO_REFERENCE,
    {"text prompt": (0.4849, 0.7890, 66.79), "texture prompt": (0.5040, 0.8038, 68.27)},
)
# gamma_1, gamma_2 -> scores, and seconds of one 512 -> 2048 on an A100
TABLE_6: dict[tuple[float, float], Scores] = {
    (0.85, 0.60): {"ManIQA": 0.5005, "CLIPIQA": 0.7909, "MUSIQ": 67.80, "seconds": 2.98},
    (0.95, 0.75): {"ManIQA": 0.5040, "CLIPIQA": 0.8038, "MUSIQ": 68.27, "seconds": 3.41},
    (1.00, 0.85): {"ManIQA": 0.5059, "CLIPIQA": 0.8065, "MUSIQ": 68.71, "seconds": 3.58},
}
# "the average confidence of 50 % of the patches lies in the range of 0.70 to 1.0" (B.1, Figure 5)
ABOVE_70 = 0.5
DEFAULT_THRESHOLDS = (0.95, 0.75)
