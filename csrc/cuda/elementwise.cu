// Rope alone and with the store, norm, gate. All are bound by memory: pieces of 16 bytes where
// addresses and sizes allow it, single elements otherwise.
#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/primitives.cuh"

namespace sensorium {
namespace cuda {
namespace {

// C elements that are loaded and stored at once.
template <class T, int C>
struct alignas(sizeof(T) * C) Piece {
  T at[C];
};
template <class T, int C>
__device__ inline Piece<T, C> load(const T* from) {
  return *reinterpret_cast<const Piece<T, C>*>(from);
}
template <class T, int C>
__device__ inline void store(T* to, const Piece<T, C>& piece) {
  *reinterpret_cast<Piece<T, C>*>(to) = piece;
}
template <class T>
__device__ inline float rounded(float x) {
  T half;
  put(&half, x);
  return to_float(half);
}

// Turns the pairs (i, i + half) of one head, and copies what lies behind them. `to` may be `from`.
template <class T, int C, class Table>
__device__ inline void turn(const T* from, T* to, const Table* cos, const Table* sin, int half,
                            int size, int first, int step) {
  for (int i = first * C; i < half; i += step * C) {
    const auto a = load<T, C>(from + i), b = load<T, C>(from + half + i);
    const auto c = load<Table, C>(cos + i), s = load<Table, C>(sin + i);
    Piece<T, C> x, y;
#pragma unroll
    for (int j = 0; j < C; ++j) {
      const float u = to_float(a.at[j]), v = to_float(b.at[j]);
      put(&x.at[j], u * to_float(c.at[j]) - v * to_float(s.at[j]));
      put(&y.at[j], v * to_float(c.at[j]) + u * to_float(s.at[j]));
    }
    store<T, C>(to + i, x);
    store<T, C>(to + half + i, y);
  }
  if (to == from) return;
  for (int i = 2 * half + first * C; i < size; i += step * C) {
    store<T, C>(to + i, load<T, C>(from + i));
  }
}

// A block a token; 8 threads a head.
template <class T, int C>
__global__ void rope_store_kernel(const RopeStore s) {
  constexpr int kThreads = 8;
  const int64_t n = blockIdx.x;
  const int half = s.cos == nullptr ? 0 : s.rotary_size / 2;
  const T* cos = static_cast<const T*>(s.cos) + n * half;
  const T* sin = static_cast<const T*>(s.sin) + n * half;
  const int part = threadIdx.x % kThreads;
  const int turned = s.cos == nullptr ? 0 : s.num_heads;  // query heads
  for (int head = threadIdx.x / kThreads; head < turned + 2 * s.num_kv_heads;
       head += blockDim.x / kThreads) {
    if (head < turned) {
      T* q = static_cast<T*>(s.q) + n * s.q_row_stride + head * s.q_head_stride;
      turn<T, C>(q, q, cos, sin, half, s.head_size, part, kThreads);
      continue;
    }
    const int kv_head = (head - turned) % s.num_kv_heads;
    const int64_t at = (s.slots[n] * s.num_kv_heads + kv_head) * s.head_size;
    if (head - turned < s.num_kv_heads) {
      const T* k = static_cast<const T*>(s.k) + n * s.k_row_stride + kv_head * s.k_head_stride;
      turn<T, C>(k, static_cast<T*>(s.keys) + at, cos, sin, half, s.head_size, part, kThreads);
    } else {
      const T* v = static_cast<const T*>(s.v) + n * s.v_row_stride + kv_head * s.v_head_stride;
      turn<T, C, T>(v, static_cast<T*>(s.values) + at, nullptr, nullptr, 0, s.head_size, part,
                    kThreads);
    }
  }
}

// A block a token; a thread a piece of a head.
template <class T, int C>
__global__ void rope_kernel(const Rope r) {
  const int64_t n = blockIdx.x;
  const int half = r.rotary_size / 2, pieces = half / C;
  for (int i = threadIdx.x; i < r.num_heads * pieces; i += blockDim.x) {
    T* x = static_cast<T*>(r.x) + n * r.row_stride + i / pieces * r.head_stride;
    turn<T, C>(x, x, r.cos + n * half, r.sin + n * half, half, 2 * half, i % pieces, pieces);
  }
}

__device__ inline float block_sum(float x) {
  __shared__ float warps[32];
#pragma unroll
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? warps[threadIdx.x % 32] : 0.0f;
#pragma unroll
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
  return x;
}

// A block a row.
template <class T, int C>
__global__ void rms_norm_kernel(const RmsNorm n) {
  const int64_t row = blockIdx.x;
  const T* x = static_cast<const T*>(n.x) + row / n.heads * n.x_row_stride +
               row % n.heads * n.x_head_stride;
  const T* weight = static_cast<const T*>(n.weight);
  T* out = static_cast<T*>(n.out) + row * n.size;
  const T* residual = static_cast<const T*>(n.residual) + row * n.size;
  T* total = static_cast<T*>(n.residual_out) + row * n.size;
  const bool adds = n.residual != nullptr;
  float squares = 0.0f;
  for (int i = threadIdx.x * C; i < n.size; i += blockDim.x * C) {
    auto piece = load<T, C>(x + i);
    if (adds) {
      const auto other = load<T, C>(residual + i);
#pragma unroll
      for (int j = 0; j < C; ++j) {
        put(&piece.at[j], to_float(piece.at[j]) + to_float(other.at[j]));
      }
      store<T, C>(total + i, piece);
    }
#pragma unroll
    for (int j = 0; j < C; ++j) squares += to_float(piece.at[j]) * to_float(piece.at[j]);
  }
  const float scale = rsqrtf(block_sum(squares) / n.size + n.eps);
  const T* summed = adds ? total : x;  // each thread reads what it wrote itself
  for (int i = threadIdx.x * C; i < n.size; i += blockDim.x * C) {
    auto piece = load<T, C>(summed + i);
    const auto factor = load<T, C>(weight + i);
#pragma unroll
    for (int j = 0; j < C; ++j) {
      const float normed = to_float(piece.at[j]) * scale, by = to_float(factor.at[j]);
      put(&piece.at[j], n.wide ? normed * (n.offset + by) : rounded<T>(normed) * by);
    }
    store<T, C>(out + i, piece);
  }
}

template <class T, int C>
__global__ void silu_mul_kernel(const SiluMul s) {
  const int64_t row = blockIdx.y;
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * C;
  if (i >= s.size) return;
  const T* gate = static_cast<const T*>(s.x) + row * s.x_row_stride + i;
  const auto g = load<T, C>(gate), up = load<T, C>(gate + s.size);
  Piece<T, C> out;
#pragma unroll
  for (int j = 0; j < C; ++j) {
    const float x = to_float(g.at[j]);
    put(&out.at[j], rounded<T>(x / (1.0f + expf(-x))) * to_float(up.at[j]));
  }
  store<T, C>(static_cast<T*>(s.out) + row * s.size + i, out);
}

bool aligned(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

// Calls f with the type and the elements of a piece.
template <class F>
cudaError_t launch(DType dtype, bool in_pieces, const F& f) {
  if (dtype == DType::kBFloat16) {
    in_pieces ? f.template operator()<BFloat16, 8>() : f.template operator()<BFloat16, 1>();
  } else if (dtype == DType::kFloat16) {
    in_pieces ? f.template operator()<Half, 8>() : f.template operator()<Half, 1>();
  } else {
    f.template operator()<float, 1>();
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace cuda

cudaError_t rope_store(const RopeStore& s, cudaStream_t stream) {
  using cuda::aligned;
  const int half = s.cos == nullptr ? 0 : s.rotary_size / 2;
  const bool in_pieces =
      s.head_size % 8 == 0 && half % 8 == 0 && aligned(s.q, s.q_row_stride) &&
      s.q_head_stride % 8 == 0 && aligned(s.k, s.k_row_stride) && s.k_head_stride % 8 == 0 &&
      aligned(s.v, s.v_row_stride) && s.v_head_stride % 8 == 0 && aligned(s.cos, 0) &&
      aligned(s.sin, 0) && aligned(s.keys, 0) && aligned(s.values, 0);
  const int heads = (s.cos == nullptr ? 0 : s.num_heads) + 2 * s.num_kv_heads;
  const int threads = std::min(256, (heads * 8 + 31) / 32 * 32);
  return cuda::launch(s.dtype, in_pieces, [&]<class T, int C>() {
    cuda::rope_store_kernel<T, C><<<s.num_tokens, threads, 0, stream>>>(s);
  });
}

cudaError_t rope(const Rope& r, cudaStream_t stream) {
  using cuda::aligned;
  const int half = r.rotary_size / 2;
  const auto whole = [](const float* table) { return reinterpret_cast<uintptr_t>(table) % 32 == 0; };
  const bool in_pieces = half % 8 == 0 && aligned(r.x, r.row_stride) && r.head_stride % 8 == 0 &&
                         whole(r.cos) && whole(r.sin);
  return cuda::launch(r.dtype, in_pieces, [&]<class T, int C>() {
    const int pieces = r.num_heads * (half / C);
    const int threads = std::min(256, (pieces + 31) / 32 * 32);
    cuda::rope_kernel<T, C><<<r.num_tokens, threads, 0, stream>>>(r);
  });
}

cudaError_t rms_norm(const RmsNorm& n, cudaStream_t stream) {
  using cuda::aligned;
  const bool in_pieces = n.size % 8 == 0 && aligned(n.x, n.x_row_stride) &&
                         n.x_head_stride % 8 == 0 && aligned(n.residual, 0) &&
                         aligned(n.residual_out, 0) && aligned(n.weight, 0) && aligned(n.out, 0);
  return cuda::launch(n.dtype, in_pieces, [&]<class T, int C>() {
    const int pieces = (n.size + C - 1) / C;
    const int threads = std::clamp((pieces + 31) / 32 * 32, 32, 512);
    cuda::rms_norm_kernel<T, C><<<n.rows, threads, 0, stream>>>(n);
  });
}

cudaError_t silu_mul(const SiluMul& s, cudaStream_t stream) {
  using cuda::aligned;
  const bool in_pieces = s.size % 8 == 0 && aligned(s.x, s.x_row_stride) && aligned(s.out, 0);
  // Rows are a launch's second dimension, of which 65,535 go at once.
  constexpr int kRows = 65535;
  for (int first = 0; first < s.rows; first += kRows) {
    SiluMul part = s;
    const int64_t bytes = s.dtype == DType::kFloat32 ? 4 : 2;
    part.x = static_cast<const char*>(s.x) + first * s.x_row_stride * bytes;
    part.out = static_cast<char*>(s.out) + static_cast<int64_t>(first) * s.size * bytes;
    part.rows = std::min(kRows, s.rows - first);
    const cudaError_t error = cuda::launch(s.dtype, in_pieces, [&]<class T, int C>() {
      const int pieces = (s.size + C - 1) / C;
      const dim3 grid((pieces + 127) / 128, part.rows);
      cuda::silu_mul_kernel<T, C><<<grid, 128, 0, stream>>>(part);
    });
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sensorium
