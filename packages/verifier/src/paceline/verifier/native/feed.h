// What a thread will read next, fetched into its cache while it computes or waits.
//
// A step reads every weight once, in an order that never changes; with few rows it takes as long as memory does. So
// memory must never pause: not in attention, not in norms, not where threads wait for each other. Each thread walks ahead
// of itself through its own stretches of the matrices, as far as its second-level cache has room.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace paceline {

constexpr int LINE_BYTES = 64;
constexpr int SHARE = 10;  // of the second-level cache: a third is slower again, 1/50 does not outlast attention

// Memory that is fetched a little with each term of a sum.
struct Ahead {
    const char* from;
    int64_t step;  // bytes per term

    template <int LINES>
    void fetch(int64_t term) const {
        const char* line = from + term * step;
        for (int index = 0; index < LINES; ++index) __builtin_prefetch(line + index * LINE_BYTES, 0, 2);
    }
};

class alignas(128) Feed {
public:
    // Adds a stretch behind the others; after the last one comes the first again. Returns its number.
    int64_t add(const void* from, int64_t bytes) {
        stretches_.push_back({static_cast<const char*>(from), bytes / LINE_BYTES, total_});
        total_ += bytes / LINE_BYTES;
        return int64_t(stretches_.size()) - 1;
    }

    void open() { is_open_.store(true, std::memory_order_release); }

    // The thread is about to read the stretch from there on.
    void reach(int64_t stretch, int64_t bytes) {
        reached_ = stretches_[stretch].start + bytes / LINE_BYTES;
        if (lead() <= limit()) return;
        next_ = stretch;  // it fell behind, or the step left a stretch out
        next_line_ = bytes / LINE_BYTES;
    }

    // At most `lines` lines, to be fetched during `terms` terms.
    Ahead take(int64_t terms, int64_t lines) {
        const Stretch& stretch = stretches_[next_];
        const char* from = stretch.from + next_line_ * LINE_BYTES;
        const int64_t count = std::max<int64_t>(
            0, std::min({lines, limit() - lead(), stretch.lines - next_line_}));
        advance(count);
        return {from, count * LINE_BYTES / terms};
    }

    // Fetches so many lines now.
    void fetch(int64_t lines) {
        if (!is_open_.load(std::memory_order_acquire)) return;
        const Stretch& stretch = stretches_[next_];
        const int64_t count = std::max<int64_t>(0, std::min({lines, limit() - lead(), stretch.lines - next_line_}));
        const char* line = stretch.from + next_line_ * LINE_BYTES;
        for (int64_t index = 0; index < count; ++index) __builtin_prefetch(line + index * LINE_BYTES, 0, 2);
        advance(count);
    }

private:
    struct Stretch {
        const char* from;
        int64_t lines, start;  // start: lines before it
    };

    static int64_t limit() {
        static const int64_t lines = std::max<long>(sysconf(_SC_LEVEL2_CACHE_SIZE), 512 << 10) / SHARE / LINE_BYTES;
        return lines;
    }

    int64_t lead() const {
        const int64_t at = stretches_[next_].start + next_line_;
        return at >= reached_ ? at - reached_ : at + total_ - reached_;
    }

    void advance(int64_t count) {
        next_line_ += count;
        if (next_line_ < stretches_[next_].lines) return;
        next_ = (next_ + 1) % int64_t(stretches_.size());
        next_line_ = 0;
    }

    std::vector<Stretch> stretches_;
    int64_t total_ = 0, reached_ = 0, next_ = 0, next_line_ = 0;
    std::atomic<bool> is_open_{false};
};

}  // namespace paceline
