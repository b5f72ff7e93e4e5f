"""Files that the library's own writer makes are read by the safetensors package, whatever the tensors' layout."""

import pytest
import torch
from safetensors import safe_open

from w2v_ext import tensor_file
from w2v_ext.tensor_file import write_tensors


@pytest.mark.parametrize("chunk", [1, 64, 8 << 20])
def test_any_layout_and_dtype(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(tensor_file, "_CHUNK", chunk)
    whole = torch.arange(7 * 16, dtype=torch.float32).view(7, 16)
    tensors = {
        "padded": whole[:, :11],
        "transposed": whole.T,
        "expanded": torch.tensor([1.5, 2.5]).expand(3, 2),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.empty(0, 5),
        "no columns": torch.empty(5, 0),
        "cube": whole.view(7, 4, 4)[:, 1:],
        **{f"{dtype}": (whole[:3, 1:4] / 8).to(dtype) for dtype in tensor_file._NAMES},
    }
    write_tensors(tmp_path / "x.safetensors", tensors, {"note": 'ä "quoted"'})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"note": 'ä "quoted"'}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            read = file.get_tensor(name)
            assert read.dtype == tensor.dtype and torch.equal(read, tensor), name


def test_a_dtype_that_it_has_not(tmp_path):
    with pytest.raises(ValueError, match=r"tensors: flags: expected one of float64, .*, got torch\.bool"):
        write_tensors(tmp_path / "x.safetensors", {"flags": torch.ones(2, dtype=torch.bool)})
    assert not (tmp_path / "x.safetensors").exists()
