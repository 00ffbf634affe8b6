// The ops' schemas, and their CPU side: contracts, results, and pieces dealt out to torch's threads.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/kernels.h"
#include "cpu/program.h"
#include "torch/arguments.h"
#include "torch/ops.h"

namespace sensorium {
namespace {

constexpr int64_t kCacheLine = 64;

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

std::unique_ptr<float[], Free> floats(int64_t count) {
  const int64_t bytes = (count * 4 + kCacheLine) / kCacheLine * kCacheLine;
  auto* memory = static_cast<float*>(std::aligned_alloc(kCacheLine, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return std::unique_ptr<float[], Free>(memory);
}

// Deals pieces to torch's threads one by one, so that uneven ones don't make one thread late.
// `make` gives each thread what it works with; `work(piece, own)` does one.
template <class Make, class Work>
void deal(int64_t pieces, const Make& make, const Work& work) {
  std::atomic<int64_t> next{0};
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), pieces);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    auto own = make();
    for (int64_t piece = next++; piece < pieces; piece = next++) work(piece, own.get());
  });
}

// Rows in runs, of at least `grain` each.
template <class Work>
void rows(int64_t count, int64_t grain, const Work& work) {
  torch::stable::parallel_for(0, count, grain, work);
}

int64_t grain_of(int64_t row_size) { return std::max<int64_t>(1, 16384 / (row_size + 1)); }

void supported(const Contract& c, DType dtype, const char* argument) {
  c.require(dtype != DType::kFloat16, argument,
            "has dtype float16; on the CPU allowed are float32 and bfloat16");
}

// A program as it is recorded. The results so far are kept, so that none takes another's place.
struct Recording {
  Program program;
  std::vector<Tensor> results;
};

// What is recorded on this thread, or null.
thread_local std::unique_ptr<Recording> recording;

void note(const Program::Step& step) {
  if (recording != nullptr) recording->program.add(step, nullptr, 0);
}

void note(const Program::Step& step, const Tensor& out) {
  if (recording == nullptr) return;
  recording->program.add(step, out.const_data_ptr(), out.numel() * out.element_size());
  recording->results.push_back(out);
}

// What the batch points at lies within what is there: a wrong index must not read elsewhere.
void check_batch(const Contract& c, const Attention& a, int64_t num_pages) {
  int32_t before = 0;
  for (int32_t b = 0; b < a.batch; ++b) {
    const int32_t start = a.query_start[b], stop = a.query_start[b + 1];
    c.require(start == before && stop >= start && stop <= a.num_queries, "query_start", "goes from ",
              start, " to ", stop, "; it must ascend from 0 to the number of queries, ",
              a.num_queries);
    before = stop;
    c.require(stop - start <= a.max_query_len, "max_query_len", "is ", a.max_query_len,
              "; a sequence has ", stop - start, " queries");
    if (a.seq_lens == nullptr) continue;
    const int32_t length = a.seq_lens[b];
    c.require(length >= 0 && length <= a.max_seq_len, "seq_lens", "holds ", length,
              "; allowed are 0 to ", a.max_seq_len);
    c.require(stop - start <= length, "seq_lens", "holds ", length, "; the sequence has ",
              stop - start, " queries");
    for (int64_t i = 0; i * a.page_size < length; ++i) {
      const int32_t page = a.page_table[b * a.page_table_stride + i];
      c.require(page >= 0 && page < num_pages, "page_table", "holds ", page, "; the cache has ",
                num_pages, " pages");
    }
  }
  c.require(before == a.num_queries, "query_start", "ends with ", before,
            "; it must end with the number of queries, ", a.num_queries);
}

void run_attention(const Attention& a) {
  const AttentionPlan plan =
      plan_attention(a, static_cast<int>(torch::stable::get_num_threads()));
  if (a.num_queries == 0 || plan.num_pieces == 0) return;
  const CpuKernels& kernels = cpu_kernels();
  const auto partials = floats(plan.partial_floats);
  deal(
      plan.num_pieces, [&] { return floats(plan.scratch_floats); },
      [&](int64_t piece, float* scratch) {
        kernels.attention_piece(a, plan, piece, scratch, partials.get());
      });
  if (plan.num_splits > 1) {
    rows(a.num_queries, 1, [&](int64_t first, int64_t last) {
      kernels.attention_merge(a, plan, first, last, partials.get());
    });
  }
}

Tensor paged_attention_cpu(Tensor q, Tensor kv, Tensor query_start, Tensor seq_lens,
                           Tensor page_table, std::optional<Tensor> reach, int64_t max_query_len,
                           int64_t max_seq_len, double scale, int64_t window, double soft_cap) {
  const Tensor out = torch::stable::new_empty(q, q.sizes());
  const Attention a = paged_arguments(q, kv, query_start, seq_lens, page_table, reach,
                                      max_query_len, max_seq_len, scale, window, soft_cap, out);
  const Contract c("paged_attention");
  supported(c, a.dtype, "q");
  check_batch(c, a, kv.size(1));
  run_attention(a);
  note(a, out);
  return out;
}

Tensor varlen_attention_cpu(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens, int64_t max_len,
                            double scale, bool causal) {
  const Tensor out = torch::stable::new_empty(q, q.sizes());
  const Attention a = varlen_arguments(q, k, v, cu_seqlens, max_len, scale, causal, out);
  const Contract c("varlen_attention");
  supported(c, a.dtype, "q");
  check_batch(c, a, 0);
  run_attention(a);
  return out;
}

void run_store(const Contract& c, const RopeStore& s, int64_t num_slots) {
  supported(c, s.dtype, "k");
  for (int32_t n = 0; n < s.num_tokens; ++n) {
    c.require(s.slots[n] >= 0 && s.slots[n] < num_slots, "slot_mapping", "holds ", s.slots[n],
              "; the cache has ", num_slots, " slots");
  }
  const int64_t heads = s.num_heads + 2 * s.num_kv_heads;
  rows(s.num_tokens, grain_of(heads * s.head_size),
       [&](int64_t first, int64_t last) { cpu_kernels().rope_store(s, first, last); });
  note(s);
}

void store_kv_cpu(Tensor k, Tensor v, Tensor kv, Tensor slot_mapping) {
  const RopeStore s = store_arguments("store_kv", {}, k, v, {}, {}, kv, slot_mapping);
  run_store(Contract("store_kv"), s, kv.size(1) * kv.size(2));
}

void rope_store_kv_cpu(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor kv,
                       Tensor slot_mapping) {
  const RopeStore s = store_arguments("rope_store_kv", q, k, v, cos, sin, kv, slot_mapping);
  run_store(Contract("rope_store_kv"), s, kv.size(1) * kv.size(2));
}

void rope_cpu(Tensor x, Tensor cos, Tensor sin) {
  const Rope r = rope_arguments(x, cos, sin);
  supported(Contract("rope"), r.dtype, "x");
  rows(r.num_tokens, grain_of(int64_t{r.num_heads} * r.rotary_size),
       [&](int64_t first, int64_t last) { cpu_kernels().rope(r, first, last); });
}

Tensor run_norm(const char* op, const Tensor& x, const std::optional<Tensor>& residual,
                const Tensor& weight, double eps, bool wide, double offset) {
  const Tensor out = torch::stable::new_empty(x, x.sizes());
  const RmsNorm n = norm_arguments(op, x, residual, weight, eps, wide, offset, out);
  supported(Contract(op), n.dtype, "x");
  rows(n.rows, grain_of(n.size),
       [&](int64_t first, int64_t last) { cpu_kernels().rms_norm(n, first, last); });
  note(n, out);
  return out;
}

Tensor rms_norm_cpu(Tensor x, Tensor weight, double eps, bool wide, double offset) {
  return run_norm("rms_norm", x, {}, weight, eps, wide, offset);
}

Tensor add_rms_norm_cpu(Tensor x, Tensor residual, Tensor weight, double eps, bool wide,
                        double offset) {
  return run_norm("add_rms_norm", x, residual, weight, eps, wide, offset);
}

Tensor silu_mul_cpu(Tensor x) {
  const Contract c("silu_mul");
  c.dims(x, "x", 2);
  const Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1) / 2});
  const SiluMul s = silu_arguments(x, out);
  supported(c, s.dtype, "x");
  rows(s.rows, grain_of(4 * s.size),
       [&](int64_t first, int64_t last) { cpu_kernels().silu_mul(s, first, last); });
  note(s, out);
  return out;
}

Tensor linear_cpu(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const Contract c("linear");
  c.dims(x, "x", 2);
  c.dense(x, "x", 1);
  Linear l{};
  l.dtype = c.dtype(x, "x");
  supported(c, l.dtype, "x");
  c.dims(weight, "weight", 2);
  c.like(weight, "weight", x);
  c.dense(weight, "weight", 1);
  c.size(weight, "weight", 1, x.size(1));
  const Tensor out = torch::stable::new_empty(x, {x.size(0), weight.size(0)});
  if (bias) {
    c.dims(*bias, "bias", 1);
    c.like(*bias, "bias", x);
    c.contiguous(*bias, "bias");
    c.size(*bias, "bias", 0, weight.size(0));
    l.bias = bias->const_data_ptr();
  }
  l.x = x.const_data_ptr();
  l.x_row_stride = x.stride(0);
  l.weight = weight.const_data_ptr();
  l.weight_row_stride = weight.stride(0);
  l.out = out.mutable_data_ptr();
  l.rows = c.narrow_size(x, "x", 0);
  l.in_size = c.narrow_size(x, "x", 1);
  l.out_size = c.narrow_size(weight, "weight", 0);
  if (l.rows == 0) return out;
  const CpuKernels& kernels = cpu_kernels();
  // Whole blocks of outputs: a thread's share begins where no other thread writes a cache line.
  const int64_t block = kernels.linear_block;
  const int64_t blocks = (l.out_size + block - 1) / block;
  rows(blocks, std::max<int64_t>(1, 32768 / (block * l.in_size + 1)),
       [&](int64_t first, int64_t last) {
         const auto scratch = floats(kernels.linear_scratch(l));
         const int64_t stop = std::min<int64_t>(last * block, l.out_size);
         kernels.linear(l, first * block, stop, scratch.get());
       });
  note(l, out);
  return out;
}

Tensor log_spectra_cpu(Tensor samples, Tensor window, Tensor bank, int64_t hop, double least) {
  const Contract c("log_spectra");
  c.dims(samples, "samples", 1);
  c.type(samples, "samples", ScalarType::Float);
  c.contiguous(samples, "samples");
  c.dims(window, "window", 1);
  c.beside(window, "window", samples);
  c.type(window, "window", ScalarType::Double);
  c.contiguous(window, "window");
  c.dims(bank, "bank", 2);
  c.like(bank, "bank", samples);
  c.contiguous(bank, "bank");
  c.require(hop > 0, "hop", "is ", hop, "; it must be 1 at least");
  Spectra s{};
  s.least = static_cast<float>(least);
  c.require(s.least >= std::numeric_limits<float>::min(), "least", "is ", least,
            "; it must be a normal number above 0");
  s.size = c.narrow_size(window, "window", 0);
  c.require(s.size > 0 && samples.size(0) >= s.size, "samples", "has size ", samples.size(0),
            "; the window has size ", s.size);
  s.filters = c.narrow_size(bank, "bank", 1);
  s.rows = (samples.size(0) - s.size) / hop + 1;
  s.hop = hop;
  s.samples = static_cast<const float*>(samples.const_data_ptr());
  s.window = static_cast<const double*>(window.const_data_ptr());
  s.bank = static_cast<const float*>(bank.const_data_ptr());
  const std::vector<int> radices = radices_of(s.size);
  c.require(!radices.empty(), "window", "has size ", s.size,
            "; allowed are twice the products of 2, 3 and 5");
  c.size(bank, "bank", 0, s.size / 2 + 1);
  const Tensor out = torch::stable::new_empty(samples, {s.rows, s.filters});
  s.out = static_cast<float*>(out.mutable_data_ptr());
  const SpectraPlan plan = plan_spectra(s, radices);
  const CpuKernels& kernels = cpu_kernels();
  rows(s.rows, grain_of(8 * s.size), [&](int64_t first, int64_t last) {
    const auto scratch = floats(kernels.spectra_scratch(s));
    kernels.spectra(s, plan, first, last, scratch.get());
  });
  return out;
}

}  // namespace
}  // namespace sensorium

STABLE_TORCH_LIBRARY(sensorium, m) {
#define SENSORIUM_DEFINE(schema) m.def(schema);
  SENSORIUM_OPS(SENSORIUM_DEFINE)
}

STABLE_TORCH_LIBRARY_IMPL(sensorium, CPU, m) {
  m.impl("paged_attention", TORCH_BOX(&sensorium::paged_attention_cpu));
  m.impl("varlen_attention", TORCH_BOX(&sensorium::varlen_attention_cpu));
  m.impl("store_kv", TORCH_BOX(&sensorium::store_kv_cpu));
  m.impl("rope_store_kv", TORCH_BOX(&sensorium::rope_store_kv_cpu));
  m.impl("rope", TORCH_BOX(&sensorium::rope_cpu));
  m.impl("rms_norm", TORCH_BOX(&sensorium::rms_norm_cpu));
  m.impl("add_rms_norm", TORCH_BOX(&sensorium::add_rms_norm_cpu));
  m.impl("silu_mul", TORCH_BOX(&sensorium::silu_mul_cpu));
  m.impl("linear", TORCH_BOX(&sensorium::linear_cpu));
  m.impl("log_spectra", TORCH_BOX(&sensorium::log_spectra_cpu));
}

#define SENSORIUM_EXPORT extern "C" __attribute__((visibility("default")))

SENSORIUM_EXPORT const char* sensorium_cpu_level() { return sensorium::cpu_kernels().level; }

// Tests try every level; 0: this processor or library hasn't got it.
SENSORIUM_EXPORT int sensorium_cpu_force(const char* level) {
  return sensorium::force_cpu_level(level) ? 1 : 0;
}

// Grids, for ops/grids.py, which says what they are for and has checked the arguments.

SENSORIUM_EXPORT void sensorium_cut_blocks(const void* x, int32_t bytes, int32_t grids,
                                           int32_t height, int32_t width, int32_t channels,
                                           int32_t size, const float* mean, const float* std,
                                           float* out) {
  const sensorium::CutBlocks b{x,    bytes != 0,    height,       width, channels,
                               size, height / size, width / size, mean,  std,
                               out};
  const int64_t line = int64_t{b.columns} * size * channels;
  sensorium::rows(int64_t{grids} * b.rows, sensorium::grain_of(line * size),
                  [&](int64_t first, int64_t last) {
                    const auto scratch = sensorium::floats((line + size) * size);
                    sensorium::cpu_kernels().cut_blocks(b, first, last, scratch.get());
                  });
}

SENSORIUM_EXPORT void sensorium_cubic_sample(const uint8_t* x, int32_t width, int32_t channels,
                                             int32_t rows, int32_t columns,
                                             const int32_t* row_cells, const int32_t* column_cells,
                                             const float* row_weights, const float* column_weights,
                                             float* out) {
  const sensorium::CubicSample s{x,         width,        channels,    columns,        row_cells,
                                 column_cells, row_weights, column_weights, out};
  const int64_t line = int64_t{width} * channels;
  sensorium::rows(rows, sensorium::grain_of(4 * line), [&](int64_t first, int64_t last) {
    const auto scratch = sensorium::floats(line);
    sensorium::cpu_kernels().cubic_sample(s, first, last, scratch.get());
  });
}

// Programs, for ops/program.py, which says what they are for.

// From now on this thread's ops are recorded, besides being carried out.
SENSORIUM_EXPORT void sensorium_record_begin() {
  sensorium::recording = std::make_unique<sensorium::Recording>();
}

SENSORIUM_EXPORT void sensorium_record_cancel() { sensorium::recording.reset(); }

// Ends the recording; `bytes`: what it needs to keep the result at `kept`. Null: no op wrote that.
SENSORIUM_EXPORT void* sensorium_record_end(const void* kept, int64_t* bytes) {
  auto ended = std::move(sensorium::recording);
  if (ended == nullptr) return nullptr;
  *bytes = ended->program.lay_out(kept);
  return *bytes < 0 ? nullptr : ended.release();
}

// Moves the results into memory; returns where the kept one lies in it.
SENSORIUM_EXPORT int64_t sensorium_program_place(void* program, void* memory) {
  auto* recorded = static_cast<sensorium::Recording*>(program);
  const int64_t kept = recorded->program.place(static_cast<char*>(memory));
  recorded->results.clear();
  return kept;
}

SENSORIUM_EXPORT void sensorium_program_run(void* program) {
  auto& recorded = static_cast<sensorium::Recording*>(program)->program;
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  recorded.prepare(threads);
  sensorium::Team team(threads);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { recorded.work(team); });
}

SENSORIUM_EXPORT void sensorium_program_free(void* program) {
  delete static_cast<sensorium::Recording*>(program);
}
