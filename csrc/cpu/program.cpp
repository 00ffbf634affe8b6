#include "cpu/program.h"

#include <algorithm>

namespace sensorium {
namespace {

constexpr int64_t kLine = 64;

int64_t lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// Every pointer of a step that may point into another step's result.
template <class Visit>
void pointers(Linear& l, const Visit& visit) {
  visit(l.x), visit(l.out);
}
template <class Visit>
void pointers(RmsNorm& n, const Visit& visit) {
  visit(n.x), visit(n.residual), visit(n.residual_out), visit(n.out);
}
template <class Visit>
void pointers(SiluMul& s, const Visit& visit) {
  visit(s.x), visit(s.out);
}
template <class Visit>
void pointers(RopeStore& s, const Visit& visit) {
  visit(s.q), visit(s.k), visit(s.v), visit(s.cos), visit(s.sin);
}
template <class Visit>
void pointers(Attention& a, const Visit& visit) {
  visit(a.q), visit(a.out);
}

// What a thread has to work with.
struct Place {
  const CpuKernels& kernels;
  Team& team;
  Share share;
  float* scratch;
  float* partials;
  int64_t waits = 0;

  void wait() { team.wait(++waits); }
};

void run(const Linear& l, Place& p) {
  const int64_t block = p.kernels.linear_block, blocks = (l.out_size + block - 1) / block;
  const int64_t last = std::min<int64_t>(p.share.last(blocks) * block, l.out_size);
  p.kernels.linear(l, p.share.first(blocks) * block, last, p.scratch);
}

void run(const RmsNorm& n, Place& p) {
  p.kernels.rms_norm(n, p.share.first(n.rows), p.share.last(n.rows));
}

void run(const SiluMul& s, Place& p) {
  p.kernels.silu_mul(s, p.share.first(s.rows), p.share.last(s.rows));
}

void run(const RopeStore& s, Place& p) {
  p.kernels.rope_store(s, p.share.first(s.num_tokens), p.share.last(s.num_tokens));
}

void run(const Attention& recorded, Place& p) {
  Attention a = recorded;
  a.max_seq_len = *std::max_element(a.seq_lens, a.seq_lens + a.batch);
  const AttentionPlan plan = plan_attention(a, p.share.size);
  for (int64_t piece = p.share.index; piece < plan.num_pieces; piece += p.share.size) {
    p.kernels.attention_piece(a, plan, piece, p.scratch, p.partials);
  }
  if (plan.num_splits > 1) {
    p.wait();
    const int64_t first = p.share.first(a.num_queries), last = p.share.last(a.num_queries);
    p.kernels.attention_merge(a, plan, first, last, p.partials);
  }
}

}  // namespace

void Program::add(const Step& step, const void* out, int64_t bytes) {
  const int here = static_cast<int>(steps_.size());
  steps_.push_back(step);
  if (bytes > 0) results_.push_back({static_cast<const char*>(out), bytes, here, here, 0});
  const auto use = [&](const auto* pointer) {
    if (Result* result = result_of(pointer)) result->dies = here;
  };
  std::visit([&](auto& s) { pointers(s, use); }, steps_.back());
}

Program::Result* Program::result_of(const void* pointer) {
  const char* at = static_cast<const char*>(pointer);
  for (auto r = results_.rbegin(); r != results_.rend(); ++r) {
    if (at >= r->at && at < r->at + r->bytes) return &*r;
  }
  return nullptr;
}

int64_t Program::lay_out(const void* kept) {
  kept_ = result_of(kept);
  if (kept_ == nullptr) return -1;
  kept_->dies = static_cast<int>(steps_.size());
  int64_t most = 0;
  std::vector<const Result*> alive;  // by offset
  for (Result& result : results_) {
    std::erase_if(alive, [&](const Result* other) { return other->dies < result.born; });
    // The first gap that is wide enough.
    auto next = alive.begin();
    for (; next != alive.end() && (*next)->offset - result.offset < lines(result.bytes); ++next) {
      result.offset = (*next)->offset + lines((*next)->bytes);
    }
    alive.insert(next, &result);
    most = std::max(most, result.offset + lines(result.bytes));
  }
  return most;
}

int64_t Program::place(char* memory) {
  // `char*` and `const char*` fields alike hold addresses, which are compared with the old places.
  const auto move = [&](auto*& pointer) {
    const Result* result = result_of(pointer);
    if (result == nullptr) return;
    const int64_t within = static_cast<const char*>(pointer) - result->at;
    pointer = memory + result->offset + within;
  };
  for (Step& step : steps_) {
    std::visit([&](auto& s) { pointers(s, move); }, step);
  }
  return kept_->offset;
}

void Program::prepare(int threads) {
  if (threads == threads_) return;
  const CpuKernels& kernels = cpu_kernels();
  int64_t scratch = 0, partials = 0;
  for (const Step& step : steps_) {
    if (const auto* l = std::get_if<Linear>(&step)) {
      scratch = std::max(scratch, kernels.linear_scratch(*l));
    } else if (const auto* a = std::get_if<Attention>(&step)) {
      const AttentionPlan plan = plan_attention(*a, threads);
      scratch = std::max(scratch, plan.scratch_floats);
      partials = std::max(partials, plan.partial_floats);
    }
  }
  const int64_t floats_of_line = kLine / 4;
  scratch_floats_ = (scratch + floats_of_line - 1) / floats_of_line * floats_of_line;
  // One line more, so that a thread's scratch can begin with one.
  scratch_ = std::make_unique<float[]>(scratch_floats_ * threads + floats_of_line);
  partials_ = std::make_unique<float[]>(partials);
  threads_ = threads;
}

void Program::work(Team& team) const {
  const Share share = team.join();
  if (share.size == 0) return;
  const auto first = (reinterpret_cast<uintptr_t>(scratch_.get()) + kLine - 1) / kLine * kLine;
  float* scratch = reinterpret_cast<float*>(first) + scratch_floats_ * share.index;
  Place place{cpu_kernels(), team, share, scratch, partials_.get()};
  for (const Step& step : steps_) {
    std::visit([&](const auto& s) { run(s, place); }, step);
    place.wait();
  }
}

}  // namespace sensorium
