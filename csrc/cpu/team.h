// Threads that go through the same list of work together, each with its share, and wait for each
// other behind every item. Waiting is spinning: what they wait for takes microseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace sensorium {

// A share of a team's work: number `index` of `size`.
struct Share {
  int index, size;

  // Its part of `count` things in a row.
  int64_t first(int64_t count) const { return count * index / size; }
  int64_t last(int64_t count) const { return count * (index + 1) / size; }
};

class Team {
 public:
  explicit Team(int threads) : threads_(threads) {}

  // The share of the thread that calls, which waits until it is known how many there are: as many
  // as come soon. One that comes late gets nothing: {-1, 0}. So it does no harm if fewer threads
  // come than were asked for, or one of them twice.
  Share join() {
    const int index = joined_.fetch_add(1);
    if (index >= kClosed) return {-1, 0};
    if (index == 0) {
      const auto start = std::chrono::steady_clock::now();
      spin([&] {
        return joined_.load() == threads_ || std::chrono::steady_clock::now() - start > kSoon;
      });
      size_.store(joined_.exchange(kClosed), std::memory_order_release);
    } else {
      spin([&] { return size_.load(std::memory_order_acquire) != 0; });
    }
    return {index, size_.load(std::memory_order_acquire)};
  }

  // Waits until all of the team have come `times` times; each counts for itself.
  void wait(int64_t times) {
    const int64_t all = times * size_.load(std::memory_order_relaxed);
    arrived_.fetch_add(1, std::memory_order_acq_rel);
    spin([&] { return arrived_.load(std::memory_order_acquire) >= all; });
  }

 private:
  static constexpr int kClosed = 1 << 20;
  static constexpr auto kSoon = std::chrono::milliseconds(2);

  template <class Done>
  static void spin(const Done& done) {
    for (int i = 0; !done(); ++i) {
      if (i > 20000) std::this_thread::yield();  // more threads than cores
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

  const int threads_;
  alignas(64) std::atomic<int> joined_{0};
  alignas(64) std::atomic<int> size_{0};
  alignas(64) std::atomic<int64_t> arrived_{0};
};

}  // namespace sensorium
