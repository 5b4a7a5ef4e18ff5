"""Patches on numpy arrays: exact, all or nothing, and in step with the hashes that a caller keeps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from spo.weights import WeightsError, apply_patch, chunk_hashes, encode_patch

CHUNK = 262_144


def bfloat16(values):
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


@pytest.fixture(scope="module")
def masters():
    return np.random.default_rng(3).normal(0, 0.05, 2 * CHUNK + 5).astype(np.float32)


def test_a_chain_of_steps_keeps_worker_and_trainer_equal_with_their_hashes(masters):
    rng = np.random.default_rng(4)
    held = bfloat16(masters)
    target = held.copy()
    sent, received = chunk_hashes(held), chunk_hashes(target)
    assert len(sent) == 3
    for step in range(5):
        masters = masters - (10.0 ** -(3 + step) * rng.normal(size=len(masters))).astype(np.float32)
        new = bfloat16(masters)
        patch = encode_patch(held, new, hashes=sent)
        assert apply_patch(target, patch, hashes=received) == np.count_nonzero(held != new)
        held = new
        np.testing.assert_array_equal(target, new)
        np.testing.assert_array_equal(sent, chunk_hashes(new))
        np.testing.assert_array_equal(received, sent)


def test_hashes_need_not_be_kept(masters):
    old, new = bfloat16(masters), bfloat16(masters + np.float32(1e-6))
    target = old.copy()
    patch = encode_patch(old, new)
    assert patch == encode_patch(old, new, hashes=chunk_hashes(old))
    assert apply_patch(target, patch) == np.count_nonzero(old != new)
    np.testing.assert_array_equal(target, new)


def test_a_wrong_base_or_a_damaged_patch_changes_nothing(masters):
    old, new = bfloat16(masters), bfloat16(masters * np.float32(1.001))
    patch = encode_patch(old, new)
    wrong = old.copy()
    wrong[CHUNK + 7] ^= 1
    kept = chunk_hashes(wrong)
    before, hashes = wrong.copy(), kept.copy()
    with pytest.raises(WeightsError, match="not the state that the patch was made from"):
        apply_patch(wrong, patch, hashes=kept)
    with pytest.raises(WeightsError, match="damaged patch: wrong checksum"):
        apply_patch(wrong, patch[:-1] + bytes([patch[-1] ^ 1]))
    with pytest.raises(WeightsError, match="damaged patch: it does not begin"):
        apply_patch(wrong, bytes(200))
    with pytest.raises(WeightsError, match=r"the patch is of \d+ elements, the target has 10"):
        apply_patch(wrong[:10].copy(), patch)
    np.testing.assert_array_equal(wrong, before)
    np.testing.assert_array_equal(kept, hashes)


def test_arrays_that_do_not_fit_are_refused():
    data = np.zeros(10, np.uint16)
    with pytest.raises(ValueError, match="old has 10 elements and new 5"):
        encode_patch(data, data[:5])
    with pytest.raises(ValueError, match="new must be contiguous"):
        encode_patch(data[:5], data[::2])
    with pytest.raises(ValueError, match="3 chunk hashes for 10 elements"):
        encode_patch(data, data, hashes=np.zeros(3, np.uint64))
    with pytest.raises(TypeError, match="old is 1-D of float32; need 1-D bfloat16 bit patterns"):
        encode_patch(data.astype(np.float32), data)
    with pytest.raises(TypeError, match="target is 2-D of uint16"):
        apply_patch(data.reshape(2, 5), b"")
    with pytest.raises(TypeError, match="data is a list"):
        chunk_hashes([1, 2])
    with pytest.raises(ValueError, match="target must be contiguous"):
        apply_patch(data[::2], encode_patch(data[:5], data[:5]))
    frozen = data.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="target may not be written to"):
        apply_patch(frozen, encode_patch(data, data))


def test_torch_tensors_are_patched_in_place(masters):
    old, new = torch.from_numpy(masters).bfloat16(), torch.from_numpy(masters * np.float32(1.001)).bfloat16()
    hashes = chunk_hashes(old)
    patch = encode_patch(old, new.view(torch.uint16), hashes)
    assert patch == encode_patch(old.view(torch.uint16).numpy(), new)
    for target in (old.clone(), old.clone().view(torch.uint16), torch.nn.Parameter(old.clone())):
        assert apply_patch(target, patch) == torch.count_nonzero(old != new)
        assert torch.equal(target.detach().view(torch.uint16), new.view(torch.uint16))
    np.testing.assert_array_equal(hashes, chunk_hashes(new))


def test_torch_tensors_that_do_not_fit_are_refused():
    data = torch.zeros(10, dtype=torch.bfloat16)
    patch = encode_patch(data, data)
    with pytest.raises(TypeError, match="target is 1-D of float32"):
        apply_patch(data.float(), patch)
    with pytest.raises(TypeError, match="target is 2-D of uint16"):
        apply_patch(data.view(2, 5), patch)
    with pytest.raises(TypeError, match="target is on meta; need a tensor on the CPU"):
        apply_patch(data.to("meta"), patch)
    with pytest.raises(ValueError, match="target must be contiguous"):
        apply_patch(torch.zeros(20, dtype=torch.bfloat16)[::2], patch)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_two_states_are_patched_exactly(data):
    length = data.draw(st.integers(0, 400))
    patterns = npst.arrays(np.uint16, length, elements=st.integers(0, 0xFFFF))
    old, other = data.draw(patterns), data.draw(patterns)
    new = np.where(data.draw(npst.arrays(np.bool_, length)), other, old)
    target = old.copy()
    assert apply_patch(target, encode_patch(old, new)) == np.count_nonzero(old != new)
    np.testing.assert_array_equal(target, new)
