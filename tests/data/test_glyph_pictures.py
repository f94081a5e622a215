"""The random numbers of the glyphs; their pictures have golden bytes."""

from maxsup_jax.data._glyph_pictures import NOISE, SCENE, Draws


def _philox(key, counter):
  """Philox4x64-10 (Salmon et al., 2011), one block of four numbers."""
  mask = 2**64 - 1
  k0, k1 = key
  x0, x1, x2, x3 = counter
  for _ in range(10):
    high0, low0 = divmod(x0 * 0xD2E7470EE14C6C93, 2**64)
    high1, low1 = divmod(x2 * 0xCA5A826395121157, 2**64)
    x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
    k0 = (k0 + 0x9E3779B97F4A7C15) & mask
    k1 = (k1 + 0xBB67AE8584CAA73B) & mask
  return x0, x1, x2, x3


def test_bits_are_those_of_philox():
  seed, split, index = 2**62 + 1, 1, 12345
  raw = _philox((seed, split), (1, 0, SCENE, index))
  raw += _philox((seed, split), (2, 0, SCENE, index))
  draws = Draws(seed, split, SCENE, index)
  for bits in raw[:3]:
    assert draws.uniform(0.0, 1.0) == (bits >> 11) / 2**53
  for bits in raw[3:]:
    assert draws.below(1000) == (bits >> 32) * 1000 // 2**32


def test_noise_is_the_sum_of_four_bytes():
  raw = _philox((3, 0), (1, 0, NOISE, 9))
  numbers = b''.join(bits.to_bytes(8, 'little') for bits in raw)
  expected = [sum(numbers[i : i + 4]) - 510 for i in range(0, 32, 4)]
  assert Draws(3, 0, NOISE, 9).noise(7).tolist() == expected[:7]
