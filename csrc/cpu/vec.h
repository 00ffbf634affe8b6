// Vectors of floats, as wide as the flags that the file is compiled with allow: 16 with AVX-512, 8
// with AVX2, else 4, which compilers map to whatever there is (SSE2, NEON). All of it lies in a
// namespace of its own for each set of flags, so that the linker never merges code of two.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef SENSORIUM_ISA
#error "SENSORIUM_ISA names the instruction set that the file is compiled for"
#endif

namespace sensorium::SENSORIUM_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kWidth)));
typedef int32_t VecInt __attribute__((vector_size(4 * kWidth)));
typedef uint32_t VecBits __attribute__((vector_size(4 * kWidth)));
typedef uint16_t VecHalf __attribute__((vector_size(2 * kWidth)));

struct BFloat16 {
  uint16_t bits;
};

template <class To, class From>
inline To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) { return bits_of<float>(uint32_t{x.bits} << 16); }

inline void put(float* to, float x) { *to = x; }
// Rounds to nearest, ties to even; a NaN stays one.
inline void put(BFloat16* to, float x) {
  const uint32_t bits = bits_of<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40 : rounded);
}
// A float rounded to T and back.
inline float rounded(float x, const float*) { return x; }
inline float rounded(float x, const BFloat16*) {
  BFloat16 half;
  put(&half, x);
  return to_float(half);
}

inline Vec splat(float x) { return x - Vec{}; }

// Halves as whole numbers and back. GCC knows one instruction for each only by its name.
#if defined(__AVX512F__)
inline VecBits widened(VecHalf x) {
  return bits_of<VecBits>(_mm512_cvtepu16_epi32(bits_of<__m256i>(x)));
}
inline VecHalf narrowed(VecBits x) {
  return bits_of<VecHalf>(_mm512_cvtepi32_epi16(bits_of<__m512i>(x)));
}
#elif defined(__AVX2__)
inline VecBits widened(VecHalf x) {
  return bits_of<VecBits>(_mm256_cvtepu16_epi32(bits_of<__m128i>(x)));
}
inline VecHalf narrowed(VecBits x) { return __builtin_convertvector(x, VecHalf); }
#else
inline VecBits widened(VecHalf x) { return __builtin_convertvector(x, VecBits); }
inline VecHalf narrowed(VecBits x) { return __builtin_convertvector(x, VecHalf); }
#endif

inline Vec load(const float* from) {
  Vec x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
inline Vec load(const BFloat16* from) {
  VecHalf half;
  std::memcpy(&half, from, sizeof half);
  return bits_of<Vec>(widened(half) << 16);
}
inline void store(float* to, Vec x) { std::memcpy(to, &x, sizeof x); }
#if defined(__AVX512BF16__)
// The processor's own rounding, which takes numbers below 2^-126 for 0.
inline void store(BFloat16* to, Vec x) {
  const __m256bh half = _mm512_cvtneps_pbh(bits_of<__m512>(x));
  std::memcpy(to, &half, sizeof half);
}
#else
inline void store(BFloat16* to, Vec x) {
  const VecBits bits = bits_of<VecBits>(x);
  const VecBits even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const VecBits nan = (bits >> 16) | 0x40;
  const VecHalf half = narrowed(x != x ? nan : even);
  std::memcpy(to, &half, sizeof half);
}
#endif

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Lanes of a and b, which count as one row of lanes, in the order of `at`.
inline Vec lanes_of(Vec a, Vec b, VecInt at) {
#if defined(__clang__)
  Vec to;
  for (int i = 0; i < kWidth; ++i) to[i] = at[i] < kWidth ? a[at[i]] : b[at[i] - kWidth];
  return to;
#else
  return __builtin_shuffle(a, b, at);
#endif
}

inline VecInt count_from(int first, int step) {
  VecInt to;
  for (int i = 0; i < kWidth; ++i) to[i] = first + step * i;
  return to;
}

inline float sum(Vec x) {
  for (int n = kWidth / 2; n > 0; n /= 2) x += lanes_of(x, x, count_from(0, 1) ^ n);
  return x[0];
}
inline float largest(Vec x) {
  for (int n = kWidth / 2; n > 0; n /= 2) x = max(x, lanes_of(x, x, count_from(0, 1) ^ n));
  return x[0];
}
// The sums of kWidth vectors as one: each step adds neighbours of two, so that a sum costs three
// instructions, not a chain of them.
inline Vec sums_of(Vec* v) {
  for (int n = kWidth / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) {
      v[i] = lanes_of(v[2 * i], v[2 * i + 1], count_from(0, 2)) +
             lanes_of(v[2 * i], v[2 * i + 1], count_from(1, 2));
    }
  }
  return v[0];
}

// e^x within 2 units in the last place; 0 below -87 (where floats become subnormal), x ≤ 88.
// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial (Cephes' expf), 2^n by its exponent bits.
inline Vec exp(Vec x) {
  const Vec bounded = max(x, splat(-87.0f));
  const Vec magic = splat(12582912.0f);  // 1.5 · 2^23: adding it rounds to an integer
  const Vec shifted = bounded * 1.44269504f + magic;
  const VecInt n = bits_of<VecInt>(shifted) - bits_of<VecInt>(magic);
  const Vec whole = shifted - magic;
  const Vec r = bounded - whole * 0.693359375f - whole * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Vec scale = bits_of<Vec>((n + 127) << 23);
  return x < -87.0f ? Vec{} : p * scale;
}

// log10 x for normal x > 0, within 2 units in the last place of the larger of its two terms.
// x = 2^n · m with √½ ≤ m < √2; ln m by a polynomial (Cephes' logf).
inline Vec log10(Vec x) {
  const VecInt root = VecInt{} + 0x3f3504f3;  // √½
  const VecInt bits = bits_of<VecInt>(x) - root;
  const VecInt n = bits >> 23;
  const Vec m = bits_of<Vec>(bits - (n << 23) + root) - 1.0f;
  Vec p = splat(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Vec natural = p * m * m * m - 0.5f * m * m + m;
  return __builtin_convertvector(n, Vec) * 0.30102999566f + natural * 0.43429448190f;
}

// tanh x = 1 - 2 / (e^2x + 1): an absolute error of about one unit in the last place of 1.
inline Vec tanh(Vec x) {
  const Vec twice = 2.0f * x;
  const Vec bounded = twice > 80.0f ? splat(80.0f) : twice;
  return 1.0f - 2.0f / (exp(bounded) + 1.0f);
}

}  // namespace sensorium::SENSORIUM_ISA
