// Logarithms of power spectra of windows through a bank of filters. The lanes of a vector are windows, so that
// every step of the transform is the same for all of them and nothing is shuffled.
#include <algorithm>

#include "cpu/level.h"

namespace sensorium::SENSORIUM_ISA {
namespace {

// Windows that are transformed together.
constexpr int kLanes = kWidth / 2;
typedef double Wide __attribute__((vector_size(8 * kLanes)));
typedef float Narrow __attribute__((vector_size(4 * kLanes)));

struct Complex {
  Wide re, im;
};

inline Complex operator+(const Complex& a, const Complex& b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(const Complex& a, const Complex& b) { return {a.re - b.re, a.im - b.im}; }
inline Complex operator*(double factor, const Complex& a) { return {factor * a.re, factor * a.im}; }
// a - i·b and a + i·b.
inline Complex right_of(const Complex& a, const Complex& b) { return {a.re + b.im, a.im - b.re}; }
inline Complex left_of(const Complex& a, const Complex& b) { return {a.re - b.im, a.im + b.re}; }
inline Complex turned(const Complex& a, double cos, double sin) {
  return {a.re * cos - a.im * sin, a.re * sin + a.im * cos};
}

// x becomes its discrete Fourier transform of R points.
template <int R>
inline void transform(Complex* x);

template <>
inline void transform<2>(Complex* x) {
  const Complex a = x[0], b = x[1];
  x[0] = a + b;
  x[1] = a - b;
}

template <>
inline void transform<3>(Complex* x) {
  const Complex both = x[1] + x[2], apart = 0.86602540378443864676 * (x[1] - x[2]);
  const Complex middle = x[0] - 0.5 * both;
  x[0] = x[0] + both;
  x[1] = right_of(middle, apart);
  x[2] = left_of(middle, apart);
}

template <>
inline void transform<4>(Complex* x) {
  const Complex a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = x[1] - x[3];
  x[0] = a + c;
  x[1] = right_of(b, d);
  x[2] = a - c;
  x[3] = left_of(b, d);
}

template <>
inline void transform<5>(Complex* x) {
  constexpr double kCos1 = 0.30901699437494742410, kCos2 = -0.80901699437494742410;
  constexpr double kSin1 = 0.95105651629515357212, kSin2 = 0.58778525229247312917;
  const Complex a = x[1] + x[4], b = x[2] + x[3], c = x[1] - x[4], d = x[2] - x[3];
  const Complex first = x[0] + kCos1 * a + kCos2 * b, second = x[0] + kCos2 * a + kCos1 * b;
  const Complex one = kSin1 * c + kSin2 * d, two = kSin2 * c - kSin1 * d;
  x[0] = x[0] + a + b;
  x[1] = right_of(first, one);
  x[2] = right_of(second, two);
  x[3] = left_of(second, two);
  x[4] = left_of(first, one);
}

template <>
inline void transform<8>(Complex* x) {
  constexpr double kHalf = 0.70710678118654752440;
  Complex even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
  transform<4>(even);
  transform<4>(odd);
  const Complex one = kHalf * right_of(odd[1], odd[1]);
  const Complex three = kHalf * left_of(odd[3], odd[3]);
  x[0] = even[0] + odd[0];
  x[4] = even[0] - odd[0];
  x[1] = even[1] + one;
  x[5] = even[1] - one;
  x[2] = right_of(even[2], odd[2]);
  x[6] = left_of(even[2], odd[2]);
  x[3] = even[3] - three;
  x[7] = even[3] + three;
}

// One step of Stockham's transform, whose result comes out in order: transforms of R points,
// turned. `turns` holds cosine and sine for the R - 1 points behind the first of each transform.
template <int R>
void step(const Complex* from, Complex* to, int length, int stride, const double* turns) {
  const int apart = length / R;
  for (int p = 0; p < apart; ++p, turns += 2 * (R - 1)) {
    for (int q = 0; q < stride; ++q) {
      Complex x[R];
      for (int j = 0; j < R; ++j) x[j] = from[q + stride * (p + apart * j)];
      transform<R>(x);
      to[q + stride * R * p] = x[0];
      for (int j = 1; j < R; ++j) {
        to[q + stride * (R * p + j)] =
            p == 0 ? x[j] : turned(x[j], turns[2 * j - 2], turns[2 * j - 1]);
      }
    }
  }
}

void any_step(int radix, const Complex* from, Complex* to, int length, int stride,
              const double* turns) {
  switch (radix) {
    case 8: return step<8>(from, to, length, stride, turns);
    case 5: return step<5>(from, to, length, stride, turns);
    case 4: return step<4>(from, to, length, stride, turns);
    case 3: return step<3>(from, to, length, stride, turns);
    default: return step<2>(from, to, length, stride, turns);
  }
}

// The windows of kLanes rows, each as size / 2 complex numbers of neighbouring samples.
void load_windows(const Spectra& s, int64_t first, Complex* to) {
  const float* rows[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    rows[lane] = s.samples + std::min<int64_t>(first + lane, s.rows - 1) * s.hop;
  }
  for (int i = 0; i < s.size; i += 2) {
    Wide even, odd;
    for (int lane = 0; lane < kLanes; ++lane) {
      even[lane] = rows[lane][i];
      odd[lane] = rows[lane][i + 1];
    }
    to[i / 2] = {even * s.window[i], odd * s.window[i + 1]};
  }
}

inline Narrow squared(const Complex& x) {
  return __builtin_convertvector(x.re * x.re + x.im * x.im, Narrow);
}

// From the transform z of neighbours as complex numbers to four times the power of the real
// transform: the even and the odd samples' transforms lie in z's symmetric parts.
void powers(const Complex* z, int half, const double* turns, Narrow* to) {
  to[0] = squared({2.0 * (z[0].re + z[0].im), Wide{}});
  to[half] = squared({2.0 * (z[0].re - z[0].im), Wide{}});
  for (int k = 1; 2 * k <= half; ++k) {
    const Complex a = z[k], b = {z[half - k].re, -z[half - k].im};
    const Complex even = a + b, odd = {a.im - b.im, b.re - a.re};
    const Complex other = turned(odd, turns[2 * k], turns[2 * k + 1]);
    to[k] = squared(even + other);
    to[half - k] = squared(even - other);
  }
}

void to_log10(float* x, int count, float least) {
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) store(x + i, log10(max(load(x + i), splat(least))));
  if (i == count) return;
  float rest[kWidth] = {};
  std::memcpy(rest, x + i, sizeof(float) * (count - i));
  store(rest, log10(max(load(rest), splat(least))));
  std::memcpy(x + i, rest, sizeof(float) * (count - i));
}

}  // namespace

void spectra(const Spectra& s, const SpectraPlan& plan, int64_t first, int64_t last,
             float* scratch) {
  const int half = s.size / 2;
  auto* from = reinterpret_cast<Complex*>(scratch);
  auto* to = from + half;
  auto* power = reinterpret_cast<Narrow*>(to + half);
  for (int64_t row = first; row < last; row += kLanes) {
    load_windows(s, row, from);
    const double* turns = plan.turns.data();
    int length = half, stride = 1;
    for (const int radix : plan.radices) {
      any_step(radix, from, to, length, stride, turns);
      turns += 2 * (radix - 1) * (length / radix);
      length /= radix;
      stride *= radix;
      std::swap(from, to);
    }
    powers(from, half, plan.real_turns.data(), power);
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, last - row));
    const float* weight = plan.weights.data();
    for (int filter = 0; filter < s.filters; ++filter) {
      const auto [begin, end] = plan.seen[filter];
      Narrow sum{};
      for (int k = begin; k < end; ++k) sum += *weight++ * power[k];
      for (int lane = 0; lane < lanes; ++lane) s.out[(row + lane) * s.filters + filter] = sum[lane];
    }
    for (int lane = 0; lane < lanes; ++lane) {
      to_log10(s.out + (row + lane) * s.filters, s.filters, s.least);
    }
  }
}

int64_t spectra_scratch(const Spectra& s) {
  const int64_t half = s.size / 2;
  return (2 * half * sizeof(Complex) + (half + 1) * sizeof(Narrow)) / sizeof(float);
}

}  // namespace sensorium::SENSORIUM_ISA
