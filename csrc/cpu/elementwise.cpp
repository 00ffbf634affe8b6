// Rope alone and with the store, norm, gate: one pass over the rows they are given.
#include "cpu/level.h"

namespace sensorium::SENSORIUM_ISA {
namespace {

// Turns the pairs (i, i + half) of one head; the rest is copied. `to` may be `from`.
template <class T, class Table>
void turn(const T* from, T* to, const Table* cos, const Table* sin, int half, int size) {
  int i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    const Vec a = load(from + i), b = load(from + half + i);
    const Vec c = load(cos + i), s = load(sin + i);
    store(to + i, a * c - b * s);
    store(to + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = to_float(from[i]), b = to_float(from[half + i]);
    const float c = to_float(cos[i]), s = to_float(sin[i]);
    put(to + i, a * c - b * s);
    put(to + half + i, b * c + a * s);
  }
  if (to != from) std::memcpy(to + 2 * half, from + 2 * half, sizeof(T) * (size - 2 * half));
}

template <class T>
void rope_store_rows(const RopeStore& s, int64_t first, int64_t last) {
  const int half = s.rotary_size / 2;
  const size_t bytes = sizeof(T) * s.head_size;
  for (int64_t n = first; n < last; ++n) {
    const T* cos = static_cast<const T*>(s.cos) + n * half;
    const T* sin = static_cast<const T*>(s.sin) + n * half;
    for (int head = 0; head < s.num_heads; ++head) {
      T* q = static_cast<T*>(s.q) + n * s.q_row_stride + head * s.q_head_stride;
      turn(q, q, cos, sin, half, s.head_size);
    }
    const int64_t slot = s.slots[n] * s.num_kv_heads;
    for (int head = 0; head < s.num_kv_heads; ++head) {
      const T* k = static_cast<const T*>(s.k) + n * s.k_row_stride + head * s.k_head_stride;
      const T* v = static_cast<const T*>(s.v) + n * s.v_row_stride + head * s.v_head_stride;
      T* key = static_cast<T*>(s.keys) + (slot + head) * s.head_size;
      if (s.cos != nullptr) {
        turn(k, key, cos, sin, half, s.head_size);
      } else {
        std::memcpy(key, k, bytes);
      }
      std::memcpy(static_cast<T*>(s.values) + (slot + head) * s.head_size, v, bytes);
    }
  }
}

template <class T>
void rope_rows(const Rope& r, int64_t first, int64_t last) {
  const int half = r.rotary_size / 2;
  for (int64_t n = first; n < last; ++n) {
    for (int head = 0; head < r.num_heads; ++head) {
      T* x = static_cast<T*>(r.x) + n * r.row_stride + head * r.head_stride;
      turn(x, x, r.cos + n * half, r.sin + n * half, half, r.rotary_size);
    }
  }
}

template <class T>
void norm_row(const RmsNorm& n, int64_t row) {
  const T* x = static_cast<const T*>(n.x) + row / n.heads * n.x_row_stride +
               row % n.heads * n.x_head_stride;
  const T* weight = static_cast<const T*>(n.weight);
  T* out = static_cast<T*>(n.out) + row * n.size;
  if (n.residual != nullptr) {
    const T* residual = static_cast<const T*>(n.residual) + row * n.size;
    T* total = static_cast<T*>(n.residual_out) + row * n.size;
    int i = 0;
    for (; i + kWidth <= n.size; i += kWidth) store(total + i, load(x + i) + load(residual + i));
    for (; i < n.size; ++i) put(total + i, to_float(x[i]) + to_float(residual[i]));
    x = total;
  }
  Vec squares{};
  float rest = 0.0f;
  int i = 0;
  for (; i + kWidth <= n.size; i += kWidth) {
    const Vec v = load(x + i);
    squares += v * v;
  }
  for (; i < n.size; ++i) rest += to_float(x[i]) * to_float(x[i]);
  const float scale = 1.0f / __builtin_sqrtf((sum(squares) + rest) / n.size + n.eps);
  if (n.wide) {
    for (i = 0; i + kWidth <= n.size; i += kWidth) {
      store(out + i, load(x + i) * scale * (load(weight + i) + n.offset));
    }
    for (; i < n.size; ++i) put(out + i, to_float(x[i]) * scale * (to_float(weight[i]) + n.offset));
    return;
  }
  T scaled[kWidth];
  for (i = 0; i + kWidth <= n.size; i += kWidth) {
    store(scaled, load(x + i) * scale);  // rounded to T before the weight, as published models do
    store(out + i, load(scaled) * load(weight + i));
  }
  for (; i < n.size; ++i) {
    put(out + i, rounded(to_float(x[i]) * scale, out) * to_float(weight[i]));
  }
}

// silu(gate) · up of a vector; silu is rounded to T before the product, as torch does.
template <class T>
Vec gated(Vec gate, Vec up) {
  const Vec bounded = max(gate, splat(-87.0f));
  T silu[kWidth];
  store(silu, gate / (1.0f + exp(-bounded)));
  return load(silu) * up;
}

template <class T>
void gate_row(const SiluMul& s, int64_t row) {
  const T* gate = static_cast<const T*>(s.x) + row * s.x_row_stride;
  const T* up = gate + s.size;
  T* out = static_cast<T*>(s.out) + row * s.size;
  int i = 0;
  for (; i + kWidth <= s.size; i += kWidth) {
    store(out + i, gated<T>(load(gate + i), load(up + i)));
  }
  if (i == s.size) return;
  T rest[3][kWidth] = {};
  std::memcpy(rest[0], gate + i, sizeof(T) * (s.size - i));
  std::memcpy(rest[1], up + i, sizeof(T) * (s.size - i));
  store(rest[2], gated<T>(load(rest[0]), load(rest[1])));
  std::memcpy(out + i, rest[2], sizeof(T) * (s.size - i));
}

}  // namespace

void rope_store(const RopeStore& s, int64_t first, int64_t last) {
  if (s.dtype == DType::kFloat32) {
    rope_store_rows<float>(s, first, last);
  } else {
    rope_store_rows<BFloat16>(s, first, last);
  }
}

void rope(const Rope& r, int64_t first, int64_t last) {
  r.dtype == DType::kFloat32 ? rope_rows<float>(r, first, last)
                             : rope_rows<BFloat16>(r, first, last);
}

void rms_norm(const RmsNorm& n, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    n.dtype == DType::kFloat32 ? norm_row<float>(n, row) : norm_row<BFloat16>(n, row);
  }
}

void silu_mul(const SiluMul& s, int64_t first, int64_t last) {
  for (int64_t row = first; row < last; ++row) {
    s.dtype == DType::kFloat32 ? gate_row<float>(s, row) : gate_row<BFloat16>(s, row);
  }
}

}  // namespace sensorium::SENSORIUM_ISA
