// Contracts of the ops, checked before anything is launched. A failure says which op, which of its
// arguments, what was given and what is allowed.
#pragma once

#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "attention.h"

namespace sensorium {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The op whose arguments are checked.
class Contract {
 public:
  explicit Contract(const char* op) : op_(op) {}

  template <class... Words>
  void require(bool good, const char* argument, const Words&... words) const {
    if (good) return;
    std::ostringstream sentence;
    sentence << "sensorium::" << op_ << ": " << argument << ' ';
    (sentence << ... << words);
    sentence << '.';
    throw std::runtime_error(sentence.str());
  }

  void dims(const Tensor& x, const char* argument, int64_t wanted) const {
    require(x.dim() == wanted, argument, "has ", x.dim(), " dimensions; it must have ", wanted);
  }

  void size(const Tensor& x, const char* argument, int64_t dim, int64_t wanted) const {
    require(x.size(dim) == wanted, argument, "has size ", x.size(dim), " in dimension ", dim,
            "; it must be ", wanted);
  }

  // The kernels count in 32 bits.
  int32_t narrow(int64_t value, const char* argument) const {
    require(value >= 0 && value <= kMost, argument, "is ", value, "; allowed are 0 to ", kMost);
    return static_cast<int32_t>(value);
  }

  int32_t narrow_size(const Tensor& x, const char* argument, int64_t dim) const {
    require(x.size(dim) <= kMost, argument, "has size ", x.size(dim), " in dimension ", dim,
            "; allowed are up to ", kMost);
    return static_cast<int32_t>(x.size(dim));
  }

  void type(const Tensor& x, const char* argument, ScalarType wanted) const {
    require(x.scalar_type() == wanted, argument, "has dtype ", name(x.scalar_type()),
            "; it must be ", name(wanted));
  }

  // The last dimension, or all but the first `free` dimensions, without gaps.
  void dense(const Tensor& x, const char* argument, int64_t free) const {
    int64_t expected = 1;
    for (int64_t dim = x.dim() - 1; dim >= free; --dim) {
      require(x.size(dim) <= 1 || x.stride(dim) == expected || x.numel() == 0, argument,
              "has stride ", x.stride(dim), " in dimension ", dim, "; it must be ", expected);
      expected *= x.size(dim);
    }
  }

  void contiguous(const Tensor& x, const char* argument) const { dense(x, argument, 0); }

  void beside(const Tensor& x, const char* argument, const Tensor& q) const {
    require(x.is_cuda() == q.is_cuda() && x.get_device_index() == q.get_device_index(), argument,
            "is on another device than the first argument");
  }

  void like(const Tensor& x, const char* argument, const Tensor& q) const {
    beside(x, argument, q);
    type(x, argument, q.scalar_type());
  }

  // A vector of int32 (or int64) beside q.
  void indices(const Tensor& x, const char* argument, ScalarType wanted, const Tensor& q) const {
    beside(x, argument, q);
    type(x, argument, wanted);
    contiguous(x, argument);
  }

  DType dtype(const Tensor& x, const char* argument) const {
    switch (x.scalar_type()) {
      case ScalarType::Float: return DType::kFloat32;
      case ScalarType::BFloat16: return DType::kBFloat16;
      case ScalarType::Half: return DType::kFloat16;
      default: break;
    }
    require(false, argument, "has dtype ", name(x.scalar_type()),
            "; allowed are float32, bfloat16 and float16");
    return DType::kFloat32;
  }

 private:
  static constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

  static const char* name(ScalarType type) {
    switch (type) {
      case ScalarType::Float: return "float32";
      case ScalarType::Double: return "float64";
      case ScalarType::BFloat16: return "bfloat16";
      case ScalarType::Half: return "float16";
      case ScalarType::Int: return "int32";
      case ScalarType::Long: return "int64";
      default: return "another type";
    }
  }

  const char* op_;
};

}  // namespace sensorium
