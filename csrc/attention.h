// What one call of attention reads and writes, for the CPU's and CUDA's kernels alike.
//
// B sequences; the queries of sequence b are rows query_start[b] … query_start[b + 1] - 1 of q
// and out, and they are its last tokens. Keys and values lie either in pages or, contiguous, in
// rows of their own:
//
//   paged       token i of sequence b: page page_table[b][i / page_size], slot i % page_size
//   contiguous  token i of sequence b: row query_start[b] + i        (seq_lens, page_table null)
//
// Every query sees one run of keys, [first, last) in tokens of its sequence:
//
//   causal      [max(0, i - window + 1), i + 1) for query i (window 0: [0, i + 1))
//   otherwise   [0, length)
//
// and, where `reach` is given, that run widened to hold [reach[n][0], reach[n][1]) too, n being the
// query's row: first = min(first, reach[n][0]), last = max(last, reach[n][1]). (`reach` is the
// union of the non-causal ranges that the query lies in, so it contains the query itself, and the
// union with the run above is one run again. A query in no range has [i, i + 1). Reach never
// exceeds the sequence.)
#pragma once

#include <cstdint>

namespace sensorium {

enum class DType { kFloat32, kBFloat16, kFloat16 };

// Strides and sizes count elements. The last dimension of every tensor is contiguous.
struct Attention {
  const void* q;  // (N, num_heads, head_size)
  int64_t q_row_stride, q_head_stride;
  const void* k;  // paged: (num_pages, page_size, num_kv_heads, head_size); else (N, kv heads, size)
  const void* v;
  int64_t k_page_stride, k_row_stride, k_head_stride;  // page strides are 0 where contiguous
  int64_t v_page_stride, v_row_stride, v_head_stride;
  void* out;  // (N, num_heads, head_size), contiguous
  const int32_t* query_start;  // (B + 1)
  const int32_t* seq_lens;     // (B), or null: contiguous
  const int32_t* page_table;   // (B, page_table_stride), or null: contiguous
  int64_t page_table_stride;
  const int32_t* reach;  // (N, 2), or null: see above
  int32_t num_queries;  // N
  int32_t batch;        // B
  int32_t num_heads, num_kv_heads, head_size, page_size;
  int32_t max_query_len, max_seq_len;  // at least the largest of each
  float scale;     // of the scores
  float soft_cap;  // s becomes soft_cap · tanh(s / soft_cap) after scaling; 0: not
  int32_t window;  // 0: all
  bool causal;
  DType dtype;  // of q, k, v and out
};

}  // namespace sensorium
