// What the transforms of one call of `spectra` have in common.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "cpu/kernels.h"

namespace sensorium {
namespace {

void append_turn(std::vector<double>& to, int64_t numerator, int64_t denominator) {
  const double angle = -2.0 * std::numbers::pi * static_cast<double>(numerator % denominator) /
                       static_cast<double>(denominator);
  to.push_back(std::cos(angle));
  to.push_back(std::sin(angle));
}

}  // namespace

// Large radices save passes over the numbers. The last step turns nothing, so it is the largest,
// which would turn most.
std::vector<int> radices_of(int size) {
  std::vector<int> found;
  if (size <= 0 || size % 2 != 0) return found;
  int length = size / 2;
  for (const int radix : {8, 4, 2, 3, 5}) {
    for (; length % radix == 0; length /= radix) found.push_back(radix);
  }
  std::reverse(found.begin(), found.end());
  return length == 1 ? found : std::vector<int>{};
}

SpectraPlan plan_spectra(const Spectra& s, std::vector<int> radices) {
  SpectraPlan plan;
  plan.radices = std::move(radices);
  const int half = s.size / 2;
  int length = half;
  for (const int radix : plan.radices) {
    for (int p = 0; p < length / radix; ++p) {
      for (int j = 1; j < radix; ++j) append_turn(plan.turns, int64_t{p} * j, length);
    }
    length /= radix;
  }
  for (int k = 0; k <= half / 2; ++k) append_turn(plan.real_turns, k, s.size);
  for (int filter = 0; filter < s.filters; ++filter) {
    int begin = 0, end = half + 1;
    const auto weight = [&](int k) { return s.bank[int64_t{k} * s.filters + filter]; };
    while (begin < end && weight(begin) == 0.0f) ++begin;
    while (end > begin && weight(end - 1) == 0.0f) --end;
    plan.seen.emplace_back(begin, end);
    for (int k = begin; k < end; ++k) plan.weights.push_back(0.25f * weight(k));
  }
  return plan;
}

}  // namespace sensorium
