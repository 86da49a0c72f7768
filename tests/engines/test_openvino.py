"""OpenVINO in torch's place; skipped where it is not installed."""

import numpy as np
import pytest

from patchscaler import PatchScalerError
from patchscaler.engines import use_engine
from patchscaler.model import Model
from patchscaler.pipeline import PatchScaler


def test_unknown_engines_and_models_without_the_denoiser_are_refused(tiny):
    with pytest.raises(PatchScalerError, match="choose auto, torch or openvino"):
        use_engine(tiny.model, "tinygrad")
    with pytest.raises(PatchScalerError, match="RRDB"):
        use_engine(tiny.model, "openvino")
    use_engine(tiny.model, "auto")
    assert tiny.model.engine == "torch"


def test_it_gives_torchs_image(tiny_rrdb, picture):
    pytest.importorskip("openvino")
    model = Model(tiny_rrdb.model.config, tiny_rrdb.model.networks)
    use_engine(model, "openvino")
    assert model.compute_signature == "cpu float32 openvino"
    image = picture(40, 56)
    own, torchs = (PatchScaler(m)(image).array.astype(int) for m in (model, tiny_rrdb.model))
    assert np.abs(own - torchs).max() <= 1


def test_a_graph_that_gives_another_image_is_refused(tiny_rrdb, monkeypatch):
    pytest.importorskip("openvino")
    from patchscaler.engines import openvino as engine

    monkeypatch.setattr(engine, "LOWEST_PSNR", 1e9)
    model = Model(tiny_rrdb.model.config, tiny_rrdb.model.networks)
    with pytest.raises(PatchScalerError, match="self-check"):
        use_engine(model, "openvino")
    assert model.engine == "torch" and model.run_denoiser is model.denoiser
