// From tensors to the plain structs that the kernels take, contracts checked on the way. The same
// for both devices.
#pragma once

#include <algorithm>
#include <optional>

#include "elementwise.h"
#include "torch/checks.h"

namespace sensorium {

// What both forms of attention have in common: q (N, heads, size) and its partners.
inline void fill_queries(Attention& a, const Contract& c, const Tensor& q, const Tensor& out) {
  c.dims(q, "q", 3);
  c.dense(q, "q", 2);
  a.dtype = c.dtype(q, "q");
  a.q = q.const_data_ptr();
  a.q_row_stride = q.stride(0);
  a.q_head_stride = q.stride(1);
  a.out = out.mutable_data_ptr();
  a.num_queries = c.narrow_size(q, "q", 0);
  a.num_heads = c.narrow_size(q, "q", 1);
  a.head_size = c.narrow_size(q, "q", 2);
  c.require(a.head_size >= 1 && a.num_heads >= 1, "q", "has no heads, or heads of size 0");
}

inline void fill_heads(Attention& a, const Contract& c, const char* argument, int64_t kv_heads) {
  c.require(kv_heads >= 1 && a.num_heads % kv_heads == 0, argument, "has ", kv_heads,
            " key heads; the ", a.num_heads, " query heads must be a multiple of them");
  a.num_kv_heads = c.narrow(kv_heads, argument);
}

inline Attention paged_arguments(const Tensor& q, const Tensor& kv, const Tensor& query_start,
                                 const Tensor& seq_lens, const Tensor& page_table,
                                 const std::optional<Tensor>& reach, int64_t max_query_len,
                                 int64_t max_seq_len, double scale, int64_t window,
                                 double soft_cap, const Tensor& out) {
  const Contract c("paged_attention");
  Attention a{};
  fill_queries(a, c, q, out);
  c.dims(kv, "kv", 5);
  c.like(kv, "kv", q);
  c.contiguous(kv, "kv");
  c.size(kv, "kv", 0, 2);
  c.size(kv, "kv", 4, a.head_size);
  fill_heads(a, c, "kv", kv.size(3));
  a.page_size = c.narrow_size(kv, "kv", 2);
  a.k_head_stride = a.v_head_stride = a.head_size;
  a.k_row_stride = a.v_row_stride = kv.size(3) * a.head_size;
  a.k_page_stride = a.v_page_stride = kv.size(2) * a.k_row_stride;
  const char* first = static_cast<const char*>(kv.const_data_ptr());
  a.k = first;
  a.v = first + kv.numel() / 2 * kv.element_size();

  c.dims(query_start, "query_start", 1);
  c.indices(query_start, "query_start", ScalarType::Int, q);
  c.dims(seq_lens, "seq_lens", 1);
  c.indices(seq_lens, "seq_lens", ScalarType::Int, q);
  a.batch = c.narrow_size(seq_lens, "seq_lens", 0);
  c.size(query_start, "query_start", 0, int64_t{a.batch} + 1);
  c.dims(page_table, "page_table", 2);
  c.beside(page_table, "page_table", q);
  c.type(page_table, "page_table", ScalarType::Int);
  c.dense(page_table, "page_table", 1);
  c.size(page_table, "page_table", 0, a.batch);
  const int64_t room = page_table.size(1) * a.page_size;
  c.require(max_seq_len >= 0 && max_seq_len <= room, "max_seq_len", "is ", max_seq_len,
            "; the page table has room for ", room, " tokens");
  c.require(max_query_len >= 0 && max_query_len <= max_seq_len, "max_query_len", "is ",
            max_query_len, "; it must lie between 0 and max_seq_len, ", max_seq_len);
  a.query_start = static_cast<const int32_t*>(query_start.const_data_ptr());
  a.seq_lens = static_cast<const int32_t*>(seq_lens.const_data_ptr());
  a.page_table = static_cast<const int32_t*>(page_table.const_data_ptr());
  a.page_table_stride = page_table.stride(0);
  if (reach) {
    c.dims(*reach, "reach", 2);
    c.indices(*reach, "reach", ScalarType::Int, q);
    c.size(*reach, "reach", 0, a.num_queries);
    c.size(*reach, "reach", 1, 2);
    a.reach = static_cast<const int32_t*>(reach->const_data_ptr());
  }
  c.require(window >= 0, "window", "is ", window, "; it must be 0 (none) or more");
  c.require(soft_cap >= 0, "soft_cap", "is ", soft_cap, "; it must be 0 (none) or more");
  a.max_query_len = c.narrow(max_query_len, "max_query_len");
  a.max_seq_len = c.narrow(max_seq_len, "max_seq_len");
  a.scale = static_cast<float>(scale);
  a.window = c.narrow(window, "window");
  a.soft_cap = static_cast<float>(soft_cap);
  a.causal = true;
  return a;
}

inline Attention varlen_arguments(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const Tensor& cu_seqlens, int64_t max_len, double scale,
                                  bool causal, const Tensor& out) {
  const Contract c("varlen_attention");
  Attention a{};
  fill_queries(a, c, q, out);
  const std::pair<const Tensor*, const char*> pair[] = {{&k, "k"}, {&v, "v"}};
  for (const auto& [x, argument] : pair) {
    c.dims(*x, argument, 3);
    c.like(*x, argument, q);
    c.dense(*x, argument, 2);
    c.size(*x, argument, 0, a.num_queries);
    c.size(*x, argument, 1, k.size(1));
    c.size(*x, argument, 2, a.head_size);
  }
  fill_heads(a, c, "k", k.size(1));
  a.k = k.const_data_ptr();
  a.k_row_stride = k.stride(0);
  a.k_head_stride = k.stride(1);
  a.v = v.const_data_ptr();
  a.v_row_stride = v.stride(0);
  a.v_head_stride = v.stride(1);
  a.page_size = 1;
  c.dims(cu_seqlens, "cu_seqlens", 1);
  c.indices(cu_seqlens, "cu_seqlens", ScalarType::Int, q);
  c.require(cu_seqlens.size(0) >= 1, "cu_seqlens", "is empty; it must hold at least a 0");
  a.query_start = static_cast<const int32_t*>(cu_seqlens.const_data_ptr());
  a.batch = c.narrow(cu_seqlens.size(0) - 1, "cu_seqlens");
  c.require(max_len >= 0 && max_len <= a.num_queries, "max_len", "is ", max_len,
            "; it must lie between 0 and the number of tokens, ", a.num_queries);
  a.max_query_len = a.max_seq_len = c.narrow(max_len, "max_len");
  a.scale = static_cast<float>(scale);
  a.causal = causal;
  return a;
}

// k, v (N, kv heads, size) into kv (2, pages, page size, kv heads, size); with q and the tables
// turned on the way.
inline RopeStore store_arguments(const char* op, const std::optional<Tensor>& q, const Tensor& k,
                                 const Tensor& v, const std::optional<Tensor>& cos,
                                 const std::optional<Tensor>& sin, const Tensor& kv,
                                 const Tensor& slot_mapping) {
  const Contract c(op);
  RopeStore s{};
  c.dims(k, "k", 3);
  c.dense(k, "k", 2);
  s.dtype = c.dtype(k, "k");
  s.num_tokens = c.narrow_size(k, "k", 0);
  s.num_kv_heads = c.narrow_size(k, "k", 1);
  s.head_size = c.narrow_size(k, "k", 2);
  s.k = k.const_data_ptr();
  s.k_row_stride = k.stride(0);
  s.k_head_stride = k.stride(1);
  c.dims(v, "v", 3);
  c.like(v, "v", k);
  c.dense(v, "v", 2);
  for (int64_t dim = 0; dim < 3; ++dim) c.size(v, "v", dim, k.size(dim));
  s.v = v.const_data_ptr();
  s.v_row_stride = v.stride(0);
  s.v_head_stride = v.stride(1);
  if (q) {
    c.dims(*q, "q", 3);
    c.like(*q, "q", k);
    c.dense(*q, "q", 2);
    c.size(*q, "q", 0, s.num_tokens);
    c.size(*q, "q", 2, s.head_size);
    s.q = q->mutable_data_ptr();
    s.q_row_stride = q->stride(0);
    s.q_head_stride = q->stride(1);
    s.num_heads = c.narrow_size(*q, "q", 1);
    const std::pair<const Tensor*, const char*> pair[] = {{&*cos, "cos"}, {&*sin, "sin"}};
    for (const auto& [x, argument] : pair) {
      c.dims(*x, argument, 2);
      c.like(*x, argument, k);
      c.contiguous(*x, argument);
      c.size(*x, argument, 0, s.num_tokens);
      c.size(*x, argument, 1, cos->size(1));
    }
    s.rotary_size = c.narrow(2 * cos->size(1), "cos");
    c.require(s.rotary_size <= s.head_size, "cos", "turns ", s.rotary_size,
              " elements of heads of size ", s.head_size);
    s.cos = cos->const_data_ptr();
    s.sin = sin->const_data_ptr();
  }
  c.dims(kv, "kv", 5);
  c.like(kv, "kv", k);
  c.contiguous(kv, "kv");
  c.size(kv, "kv", 0, 2);
  c.size(kv, "kv", 3, s.num_kv_heads);
  c.size(kv, "kv", 4, s.head_size);
  char* first = static_cast<char*>(kv.mutable_data_ptr());
  s.keys = first;
  s.values = first + kv.numel() / 2 * kv.element_size();
  c.dims(slot_mapping, "slot_mapping", 1);
  c.indices(slot_mapping, "slot_mapping", ScalarType::Long, k);
  c.size(slot_mapping, "slot_mapping", 0, s.num_tokens);
  s.slots = static_cast<const int64_t*>(slot_mapping.const_data_ptr());
  return s;
}

inline Rope rope_arguments(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const Contract c("rope");
  Rope r{};
  c.dims(x, "x", 3);
  c.dense(x, "x", 2);
  r.dtype = c.dtype(x, "x");
  r.x = x.mutable_data_ptr();
  r.row_stride = x.stride(0);
  r.head_stride = x.stride(1);
  r.num_tokens = c.narrow_size(x, "x", 0);
  r.num_heads = c.narrow_size(x, "x", 1);
  const std::pair<const Tensor*, const char*> pair[] = {{&cos, "cos"}, {&sin, "sin"}};
  for (const auto& [table, argument] : pair) {
    c.dims(*table, argument, 2);
    c.beside(*table, argument, x);
    c.type(*table, argument, ScalarType::Float);
    c.contiguous(*table, argument);
    c.size(*table, argument, 0, r.num_tokens);
    c.size(*table, argument, 1, cos.size(1));
  }
  r.rotary_size = c.narrow(2 * cos.size(1), "cos");
  c.require(r.rotary_size <= x.size(2), "cos", "turns ", r.rotary_size,
            " elements of heads of size ", x.size(2));
  r.cos = static_cast<const float*>(cos.const_data_ptr());
  r.sin = static_cast<const float*>(sin.const_data_ptr());
  return r;
}

inline RmsNorm norm_arguments(const char* op, const Tensor& x, const std::optional<Tensor>& residual,
                              const Tensor& weight, double eps, bool wide, double offset,
                              const Tensor& out) {
  const Contract c(op);
  RmsNorm n{};
  const bool heads = x.dim() == 3 && !residual;
  if (!heads) c.dims(x, "x", 2);
  const int64_t last = x.dim() - 1;
  c.dense(x, "x", last);
  n.dtype = c.dtype(x, "x");
  n.heads = heads ? std::max(1, c.narrow_size(x, "x", 1)) : 1;
  n.rows = c.narrow_size(x, "x", 0);
  if (heads) n.rows = c.narrow(n.rows * x.size(1), "x");
  n.size = c.narrow_size(x, "x", last);
  n.wide = wide;
  n.offset = static_cast<float>(offset);
  c.require(wide || offset == 0, "offset", "is ", offset, "; it must be 0 unless wide is true");
  c.dims(weight, "weight", 1);
  c.like(weight, "weight", x);
  c.contiguous(weight, "weight");
  c.size(weight, "weight", 0, n.size);
  if (residual) {
    c.dims(*residual, "residual", 2);
    c.like(*residual, "residual", x);
    c.contiguous(*residual, "residual");
    c.size(*residual, "residual", 0, n.rows);
    c.size(*residual, "residual", 1, n.size);
    n.residual = residual->const_data_ptr();
    n.residual_out = residual->mutable_data_ptr();
  }
  n.x = x.const_data_ptr();
  n.x_row_stride = x.stride(0);
  n.x_head_stride = heads ? x.stride(1) : 0;
  n.weight = weight.const_data_ptr();
  n.out = out.mutable_data_ptr();
  n.eps = static_cast<float>(eps);
  return n;
}

inline SiluMul silu_arguments(const Tensor& x, const Tensor& out) {
  const Contract c("silu_mul");
  SiluMul s{};
  c.dims(x, "x", 2);
  c.dense(x, "x", 1);
  c.require(x.size(1) % 2 == 0, "x", "has ", x.size(1), " columns; they must be even in number");
  s.dtype = c.dtype(x, "x");
  s.x = x.const_data_ptr();
  s.x_row_stride = x.stride(0);
  s.out = out.mutable_data_ptr();
  s.rows = c.narrow_size(x, "x", 0);
  s.size = c.narrow(x.size(1) / 2, "x");
  return s;
}

}  // namespace sensorium
