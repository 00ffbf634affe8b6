// Attention of one tile: the queries of a block, times the heads that share a key head, against
// the keys that they see, 64 at a time, with a running softmax (Milakov and Gimelshein 2018). All
// sums are in float32.
//
// Few rows (decode) read keys and values where they lie, once, and are as fast as memory; many rows
// (prefill) copy each block of keys, transposed, and of values into float scratch, and multiply
// small matrices.
#include "cpu/level.h"
#include "cpu/product.h"

namespace sensorium::SENSORIUM_ISA {
namespace {

constexpr int kKeys = 64;     // of a block
constexpr int kFewRows = 16;  // up to which keys are read where they lie
constexpr float kNever = -__builtin_inff();

int padded(int size) { return (size + 31) / 32 * 32; }

struct Run {
  int first, last;
};

// A tile and its scratch. Row r is query r / group, head r % group of the key head.
template <class T>
struct Tile {
  const Attention& a;
  int group = 1, rows = 0, kv_head = 0, b = 0;
  int first_query = 0;  // row of q
  int first_index = 0;  // its token of the sequence
  int length = 0;       // tokens of the sequence
  Run all = {};         // what any row sees
  float *q = nullptr, *out = nullptr;                             // (rows, padded head size)
  float* scores = nullptr;                                        // (rows, kKeys)
  float *keys = nullptr, *values = nullptr;                       // (size, kKeys), (kKeys, size)
  float *most = nullptr, *sum = nullptr;                          // (rows)
  Run* seen = nullptr;                                            // (rows)
};

// Where the keys and values of a block lie; behind the last one that one again, up to whole vectors.
template <class T>
struct Block {
  int count = 0;
  const T *keys[kKeys], *values[kKeys];

  Block(const Tile<T>& t, int from, int to) {
    const Attention& a = t.a;
    const T* k = static_cast<const T*>(a.k) + t.kv_head * a.k_head_stride;
    const T* v = static_cast<const T*>(a.v) + t.kv_head * a.v_head_stride;
    if (a.page_table == nullptr) add(k, v, a.query_start[t.b] + from, to - from, a);
    for (int at = from; a.page_table != nullptr && at < to;) {
      const int row = at % a.page_size;
      const int rows = a.page_size - row < to - at ? a.page_size - row : to - at;
      const int64_t page = a.page_table[t.b * a.page_table_stride + at / a.page_size];
      add(k + page * a.k_page_stride, v + page * a.v_page_stride, row, rows, a);
      at += rows;
    }
    for (int j = count; j % kWidth != 0; ++j) {
      keys[j] = keys[count - 1];
      values[j] = values[count - 1];
    }
  }

  // `rows` tokens from `row` on, which lie one behind another.
  void add(const T* k, const T* v, int64_t row, int rows, const Attention& a) {
    k += row * a.k_row_stride;
    v += row * a.v_row_stride;
    for (int j = count; j < count + rows; ++j) {
      keys[j] = k;
      values[j] = v;
      k += a.k_row_stride;
      v += a.v_row_stride;
    }
    count += rows;
  }
};

Run run_of(const Attention& a, int row, int index, int length) {
  Run run{0, length};
  if (a.causal) {
    run.last = index + 1;
    if (a.window > 0 && index + 1 > a.window) run.first = index + 1 - a.window;
  }
  if (a.reach != nullptr) {
    const int32_t* reach = a.reach + 2 * static_cast<int64_t>(row);
    if (reach[0] < run.first) run.first = reach[0] < 0 ? 0 : reach[0];
    if (reach[1] > run.last) run.last = reach[1] > length ? length : reach[1];
  }
  return run;
}

// Scores of rows r to r + R with all keys, some keys at a time: as many as make kWidth sums.
template <int R, class T>
void scores_of(const Tile<T>& t, const Block<T>& block, int r) {
  constexpr int kTogether = kWidth / (R == 3 ? 4 : R);
  const int size = t.a.head_size, stride = padded(size);
  const float* q = t.q + r * stride;
  for (int j = 0; j < block.count; j += kTogether) {
    const T* const* keys = block.keys + j;
    Vec own[R * kTogether] = {};
    int i = 0;
    for (; i + kWidth <= size; i += kWidth) {
      Vec rows[R];
      for (int n = 0; n < R; ++n) rows[n] = load(q + n * stride + i);
#pragma GCC unroll 16
      for (int c = 0; c < kTogether; ++c) {
        const Vec key = load(keys[c] + i);
#pragma GCC unroll 4
        for (int n = 0; n < R; ++n) own[n * kTogether + c] += rows[n] * key;
      }
    }
    Vec sums[kWidth] = {};
    std::memcpy(sums, own, sizeof own);
    const Vec scores = sums_of(sums);
    for (int n = 0; n < R; ++n) {
      float* to = t.scores + (r + n) * kKeys + j;
      std::memcpy(to, reinterpret_cast<const float*>(&scores) + n * kTogether, 4 * kTogether);
      for (int c = 0; c < kTogether; ++c) {
        for (int k = i; k < size; ++k) to[c] += q[n * stride + k] * to_float(keys[c][k]);
      }
    }
  }
}

// out += weights · values for rows r to r + R and V vectors of the values from i on.
template <int R, int V, class T>
void add_values(const Tile<T>& t, const Block<T>& block, int r, int i) {
  const int stride = padded(t.a.head_size);
  float* out = t.out + r * stride + i;
  const float* weights = t.scores + r * kKeys;
  Vec sums[R][V];
#pragma GCC unroll 4
  for (int n = 0; n < R; ++n) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[n][v] = load(out + n * stride + v * kWidth);
  }
  for (int j = 0; j < block.count; ++j) {
    Vec values[V];
    for (int v = 0; v < V; ++v) values[v] = load(block.values[j] + i + v * kWidth);
#pragma GCC unroll 4
    for (int n = 0; n < R; ++n) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[n][v] += weights[n * kKeys + j] * values[v];
    }
  }
  for (int n = 0; n < R; ++n) {
    for (int v = 0; v < V; ++v) store(out + n * stride + v * kWidth, sums[n][v]);
  }
}

template <int R, class T>
void values_of(const Tile<T>& t, const Block<T>& block, int r) {
  constexpr int kVectors = kWidth == 16 ? 4 : 2;  // with four rows they fill the registers
  const int size = t.a.head_size, stride = padded(size);
  int i = 0;
  for (; i + kVectors * kWidth <= size; i += kVectors * kWidth) {
    add_values<R, kVectors>(t, block, r, i);
  }
  for (; i + kWidth <= size; i += kWidth) add_values<R, 1>(t, block, r, i);
  for (; i < size; ++i) {
    for (int n = r; n < r + R; ++n) {
      for (int j = 0; j < block.count; ++j) {
        t.out[n * stride + i] += t.scores[n * kKeys + j] * to_float(block.values[j][i]);
      }
    }
  }
}

// Calls work<R>(r) for all rows, four at a time.
template <class Work>
void by_fours(int rows, const Work& work) {
  int r = 0;
  for (; r + 4 <= rows; r += 4) work.template operator()<4>(r);
  if (rows - r == 3) work.template operator()<3>(r);
  if (rows - r == 2) work.template operator()<2>(r);
  if (rows - r == 1) work.template operator()<1>(r);
}

template <class T>
void scores_where_they_lie(const Tile<T>& t, const Block<T>& block) {
  by_fours(t.rows, [&]<int R>(int r) { scores_of<R>(t, block, r); });
}

template <class T>
void add_where_they_lie(const Tile<T>& t, const Block<T>& block) {
  by_fours(t.rows, [&]<int R>(int r) { values_of<R>(t, block, r); });
}

template <class T>
void multiply_scores(const Tile<T>& t, const Block<T>& block) {
  const int size = t.a.head_size;
  for (int j = 0; j < kKeys; ++j) {
    if (j < block.count) {
      const T* key = block.keys[j];
      for (int i = 0; i < size; ++i) t.keys[i * kKeys + j] = to_float(key[i]);
    } else {
      for (int i = 0; i < size; ++i) t.keys[i * kKeys + j] = 0.0f;
    }
  }
  for (int i = 0; i < t.rows * kKeys; ++i) t.scores[i] = 0.0f;
  add_product(t.q, padded(size), t.keys, kKeys, t.scores, kKeys, t.rows, kKeys, size);
}

template <class T>
void multiply_values(const Tile<T>& t, const Block<T>& block) {
  const int size = t.a.head_size, stride = padded(size);
  for (int j = 0; j < block.count; ++j) {
    const T* value = block.values[j];
    int i = 0;
    for (; i + kWidth <= size; i += kWidth) store(t.values + j * stride + i, load(value + i));
    for (; i < size; ++i) t.values[j * stride + i] = to_float(value[i]);
    for (; i < stride; ++i) t.values[j * stride + i] = 0.0f;
  }
  add_product(t.scores, kKeys, t.values, stride, t.out, stride, t.rows, stride, block.count);
}

// Scores to weights: cap, mask, and the running softmax. Weights of hidden keys are 0.
template <class T>
void soften(const Tile<T>& t, int from, int count) {
  const int stride = padded(t.a.head_size);
  const float cap = t.a.soft_cap;
  for (int r = 0; r < t.rows; ++r) {
    float* s = t.scores + r * kKeys;
    for (int j = count; j < kKeys; ++j) s[j] = kNever;
    if (cap > 0.0f) {
      for (int j = 0; j < kKeys; j += kWidth) store(s + j, cap * tanh(load(s + j) * (1.0f / cap)));
      for (int j = count; j < kKeys; ++j) s[j] = kNever;
    }
    const Run run = t.seen[r];
    for (int j = 0; j < count && from + j < run.first; ++j) s[j] = kNever;
    for (int j = run.last - from > 0 ? run.last - from : 0; j < count; ++j) s[j] = kNever;

    Vec most_here = splat(kNever);
    for (int j = 0; j < kKeys; j += kWidth) most_here = max(most_here, load(s + j));
    const float before = t.most[r];
    float most = largest(most_here);
    most = most > before ? most : before;
    if (most == kNever) {  // nothing seen so far
      for (int j = 0; j < kKeys; ++j) s[j] = 0.0f;
      continue;
    }
    Vec total{};
    for (int j = 0; j < kKeys; j += kWidth) {
      const Vec weight = exp(load(s + j) - most);
      store(s + j, weight);
      total += weight;
    }
    if (most > before) {
      const float factor = before == kNever ? 0.0f : exp(splat(before - most))[0];
      t.sum[r] *= factor;
      float* out = t.out + r * stride;
      for (int i = 0; i < stride; i += kWidth) store(out + i, load(out + i) * factor);
      t.most[r] = most;
    }
    t.sum[r] += sum(total);
  }
}

template <class T>
void begin(Tile<T>& t) {
  const int size = t.a.head_size, stride = padded(size);
  t.all = {t.length, 0};
  for (int r = 0; r < t.rows; ++r) {
    const int row = t.first_query + r / t.group;
    const int head = t.kv_head * t.group + r % t.group;
    const T* q = static_cast<const T*>(t.a.q) + row * t.a.q_row_stride + head * t.a.q_head_stride;
    for (int i = 0; i < size; ++i) t.q[r * stride + i] = to_float(q[i]) * t.a.scale;
    for (int i = 0; i < stride; ++i) t.out[r * stride + i] = 0.0f;
    t.most[r] = kNever;
    t.sum[r] = 0.0f;
    t.seen[r] = run_of(t.a, row, t.first_index + r / t.group, t.length);
    if (t.seen[r].first < t.all.first) t.all.first = t.seen[r].first;
    if (t.seen[r].last > t.all.last) t.all.last = t.seen[r].last;
  }
}

// Where row r's partial sums of a split lie: head_size sums, the maximum, the sum of weights.
int64_t partial_at(const Attention& a, int64_t row, int head, int split) {
  const int64_t rows = static_cast<int64_t>(a.num_queries) * a.num_heads;
  return (split * rows + row * a.num_heads + head) * (a.head_size + 2);
}

template <class T>
void finish(const Tile<T>& t, const AttentionPlan& plan, int split, float* partials) {
  const int size = t.a.head_size, stride = padded(size);
  for (int r = 0; r < t.rows; ++r) {
    const int64_t row = t.first_query + r / t.group;
    const int head = t.kv_head * t.group + r % t.group;
    const float* sums = t.out + r * stride;
    if (plan.num_splits > 1) {
      float* to = partials + partial_at(t.a, row, head, split);
      std::memcpy(to, sums, sizeof(float) * size);
      to[size] = t.most[r];
      to[size + 1] = t.sum[r];
      continue;
    }
    T* out = static_cast<T*>(t.a.out) + (row * t.a.num_heads + head) * size;
    const float factor = t.sum[r] > 0.0f ? 1.0f / t.sum[r] : 0.0f;
    for (int i = 0; i < size; ++i) put(out + i, sums[i] * factor);
  }
}

template <class T>
void piece_of(const Attention& a, const AttentionPlan& plan, int64_t piece, float* scratch,
              float* partials) {
  const int split = static_cast<int>(piece % plan.num_splits);
  piece /= plan.num_splits;
  // The last blocks of causal sequences see the most: they come first.
  const int block = plan.num_blocks - 1 - static_cast<int>(piece % plan.num_blocks);
  piece /= plan.num_blocks;
  Tile<T> t{a};
  t.kv_head = static_cast<int>(piece % a.num_kv_heads);
  t.b = static_cast<int>(piece / a.num_kv_heads);
  const int num_queries = a.query_start[t.b + 1] - a.query_start[t.b];
  const int from_query = block * plan.block_queries;
  if (from_query >= num_queries) return;
  const int count = num_queries - from_query < plan.block_queries ? num_queries - from_query
                                                                  : plan.block_queries;
  t.length = a.seq_lens != nullptr ? a.seq_lens[t.b] : num_queries;
  t.group = a.num_heads / a.num_kv_heads;
  t.rows = count * t.group;
  t.first_query = a.query_start[t.b] + from_query;
  t.first_index = t.length - num_queries + from_query;

  const int stride = padded(a.head_size), most_rows = plan.block_queries * t.group;
  t.q = scratch;
  t.out = t.q + most_rows * stride;
  t.scores = t.out + most_rows * stride;
  t.keys = t.scores + most_rows * kKeys;
  t.values = t.keys + stride * kKeys;
  t.most = t.values + stride * kKeys;
  t.sum = t.most + most_rows;
  t.seen = reinterpret_cast<Run*>(t.sum + most_rows);
  begin(t);

  // This split's share of the keys, by whole blocks.
  const int blocks = (t.all.last - t.all.first + kKeys - 1) / kKeys;
  const int share = (blocks + plan.num_splits - 1) / plan.num_splits * kKeys;
  const int first = t.all.first + split * share;
  const int last = first + share < t.all.last ? first + share : t.all.last;
  const bool few = t.rows <= kFewRows;
  for (int from = first; from < last; from += kKeys) {
    const Block<T> block(t, from, last - from < kKeys ? last : from + kKeys);
    few ? scores_where_they_lie(t, block) : multiply_scores(t, block);
    soften(t, from, block.count);
    few ? add_where_they_lie(t, block) : multiply_values(t, block);
  }
  finish(t, plan, split, partials);
}

template <class T>
void merge_row(const Attention& a, const AttentionPlan& plan, int64_t row, const float* partials) {
  const int size = a.head_size;
  for (int head = 0; head < a.num_heads; ++head) {
    float most = kNever, total = 0.0f;
    for (int split = 0; split < plan.num_splits; ++split) {
      const float here = partials[partial_at(a, row, head, split) + size];
      most = here > most ? here : most;
    }
    float weights[kMaxSplits];
    for (int split = 0; split < plan.num_splits; ++split) {
      const float* part = partials + partial_at(a, row, head, split);
      weights[split] = part[size + 1] > 0.0f ? exp(splat(part[size] - most))[0] : 0.0f;
      total += weights[split] * part[size + 1];
    }
    T* out = static_cast<T*>(a.out) + (row * a.num_heads + head) * size;
    for (int i = 0; i < size; ++i) {
      float sum = 0.0f;
      for (int split = 0; split < plan.num_splits; ++split) {
        sum += weights[split] * partials[partial_at(a, row, head, split) + i];
      }
      put(out + i, total > 0.0f ? sum / total : 0.0f);
    }
  }
}

}  // namespace

void attention_piece(const Attention& a, const AttentionPlan& plan, int64_t piece, float* scratch,
                     float* partials) {
  if (a.dtype == DType::kFloat32) {
    piece_of<float>(a, plan, piece, scratch, partials);
  } else {
    piece_of<BFloat16>(a, plan, piece, scratch, partials);
  }
}

void attention_merge(const Attention& a, const AttentionPlan& plan, int64_t first_row,
                     int64_t last_row, const float* partials) {
  for (int64_t row = first_row; row < last_row; ++row) {
    if (a.dtype == DType::kFloat32) {
      merge_row<float>(a, plan, row, partials);
    } else {
      merge_row<BFloat16>(a, plan, row, partials);
    }
  }
}

}  // namespace sensorium::SENSORIUM_ISA
