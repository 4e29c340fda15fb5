// A few threads that share out the items of a loop.
//
// Items are taken one by one, so a thread that loses its core to another process holds up one item, not its share. A
// thread that finds nothing to do spins for some microseconds, the time between two loops of a step, and then sleeps:
// it never holds for long a core that somebody else could use.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <thread>
#include <vector>

namespace paceline {

class Team {
public:
    explicit Team(int threads) {
        for (int index = 1; index < threads; ++index) workers_.emplace_back([this, index] { serve(index); });
    }

    ~Team() {
        stopping_.store(true);
        ticket_.fetch_add(uint64_t(1) << 32);
        wake();
        for (std::thread& worker : workers_) worker.join();
    }

    int size() const { return int(workers_.size()) + 1; }

    // Calls work(item, thread) for each item of [0, count), in any order; returns when all are done.
    template <typename Work>
    void run(int64_t count, const Work& work) {
        if (workers_.empty() || count <= 1) {
            for (int64_t item = 0; item < count; ++item) work(item, 0);
            return;
        }
        const uint32_t round = uint32_t(ticket_.load() >> 32) + 1;
        Loop& loop = loops_[round % 2];
        loop.call.store([](const void* work, int64_t item, int thread) {
            (*static_cast<const Work*>(work))(item, thread);
        });
        loop.work.store(&work);
        loop.count.store(uint32_t(count));
        loop.done.store(0);
        ticket_.store(uint64_t(round) << 32);
        if (sleeping_.load() > 0) wake();
        take(round, 0);
        for (int spins = 0; loop.done.load() < uint32_t(count); ++spins) {
            if (spins < SPINS) pause();
            else sched_yield();
        }
    }

private:
    static constexpr int SPINS = 4000;  // of some 10 ns
    using Call = void (*)(const void*, int64_t, int);

    struct Loop {
        std::atomic<Call> call{nullptr};
        std::atomic<const void*> work{nullptr};
        std::atomic<uint32_t> count{0};
        std::atomic<uint32_t> done{0};
    };

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // Takes items of this round until there are none. An item is ours when the ticket, which names the round, could be
    // raised: then the round is not over, and what its Loop says is still true.
    void take(uint32_t round, int thread) {
        Loop& loop = loops_[round % 2];
        uint64_t ticket = ticket_.load();
        while (uint32_t(ticket >> 32) == round) {
            const uint32_t item = uint32_t(ticket);
            const uint32_t count = loop.count.load();
            const Call call = loop.call.load();
            const void* work = loop.work.load();
            if (item >= count) return;
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
            call(work, item, thread);
            loop.done.fetch_add(1);
            ticket = ticket_.load();
        }
    }

    void serve(int thread) {
        uint32_t seen = 0;
        while (true) {
            uint32_t round = uint32_t(ticket_.load() >> 32);
            for (int spins = 0; round == seen && spins < SPINS; ++spins) {
                pause();
                round = uint32_t(ticket_.load() >> 32);
            }
            if (round == seen) {
                sleep(seen);
                continue;
            }
            if (stopping_.load()) return;
            seen = round;
            take(round, thread);
        }
    }

    void sleep(uint32_t seen) {
        const uint32_t signal = signal_.load();
        sleeping_.fetch_add(1);
        if (uint32_t(ticket_.load() >> 32) == seen) syscall(SYS_futex, &signal_, FUTEX_WAIT_PRIVATE, signal, nullptr);
        sleeping_.fetch_sub(1);
    }

    void wake() {
        signal_.fetch_add(1);
        syscall(SYS_futex, &signal_, FUTEX_WAKE_PRIVATE, INT_MAX);
    }

    std::vector<std::thread> workers_;
    Loop loops_[2];
    std::atomic<uint64_t> ticket_{0};  // round above, next item below
    std::atomic<uint32_t> signal_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> stopping_{false};
};

}  // namespace paceline
