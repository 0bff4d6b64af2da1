import pytest
import torch

from cvvae_cli.engine import device
from cvvae_cli.errors import DeviceError


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gpu", "auto"), ("cuda:99", "auto"), ("cpu", "fp8"), ("cpu", "fp16"), ("cuda:x", "auto")],
)
def test_what_is_not_there_is_refused_with_a_hint(name, dtype):
    with pytest.raises(DeviceError) as caught:
        device.choose_placement(name, dtype)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
    ],
)
def test_a_cpu_gets_bf16_only_where_it_multiplies_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert device.choose_placement("cpu").dtype == expected
