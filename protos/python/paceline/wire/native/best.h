// The greatest of many numbers, kept while they are computed.
#pragma once

#include <vector>

#include "vectors.h"

namespace paceline {

struct Scored {
    float score;
    int32_t id;

    bool before(const Scored& other) const { return score > other.score || (score == other.score && id < other.id); }
};

constexpr Scored NOBODY{NEVER, std::numeric_limits<int32_t>::max()};

// The best of what it was shown, best first; ties by id, so the order of showing doesn't matter. NaN is never among them.
class Best {
public:
    void clear(int64_t count) { kept_.assign(count, NOBODY); }
    const std::vector<Scored>& kept() const { return kept_; }

    void show(Scored candidate) {
        if (!candidate.before(kept_.back())) return;
        size_t place = kept_.size() - 1;
        for (; place > 0 && candidate.before(kept_[place - 1]); --place) kept_[place] = kept_[place - 1];
        kept_[place] = candidate;
    }

    // scores[i] belongs to id first + i; whole vectors of them, then what is left.
    void show(const float* scores, int32_t first, int64_t count) {
        int64_t index = 0;
        for (; index + LANES <= count; index += LANES) {
            const Floats value = load(scores + index);
            if (!any(value >= broadcast(kept_.back().score))) continue;
            for (int64_t lane = 0; lane < LANES; ++lane) show({value[lane], first + int32_t(index + lane)});
        }
        for (; index < count; ++index) show({scores[index], first + int32_t(index)});
    }

private:
    std::vector<Scored> kept_;
};

}  // namespace paceline
