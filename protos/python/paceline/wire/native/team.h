// A few threads that share out the items of a loop.
//
// Each thread has a stretch of the items and takes them one by one, so it knows what it will need next and can fetch
// it. Who has finished takes from the others' stretches: a thread that loses its core to another process holds up one
// item, not its share. A thread that finds nothing to do spins for some microseconds, the time between two loops of a
// step, and then sleeps: it never holds for long a core that somebody else could use.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace paceline {

class Team {
public:
    // `idle(thread)` is called again and again while a thread waits for the others.
    Team(int threads, std::function<void(int)> idle) : idle_(std::move(idle)), tickets_(threads) {
        for (int index = 1; index < threads; ++index) workers_.emplace_back([this, index] { serve(index); });
    }

    ~Team() {
        stopping_.store(true);
        round_.fetch_add(1);
        wake();
        for (std::thread& worker : workers_) worker.join();
    }

    int size() const { return int(workers_.size()) + 1; }

    // The stretch of `count` items that a thread begins with.
    int64_t begin(int64_t count, int thread) const { return count * thread / size(); }
    int64_t end(int64_t count, int thread) const { return begin(count, thread + 1); }

    // Calls work(item, thread) for each item of [0, count), in any order; returns when all are done.
    template <typename Work>
    void run(int64_t count, const Work& work) {
        if (workers_.empty() || count <= 1) {
            for (int64_t item = 0; item < count; ++item) work(item, 0);
            return;
        }
        const uint32_t round = round_.load() + 1;
        Loop& loop = loops_[round % 2];
        loop.call.store([](const void* work, int64_t item, int thread) {
            (*static_cast<const Work*>(work))(item, thread);
        });
        loop.work.store(&work);
        loop.count.store(uint32_t(count));
        loop.done.store(0);
        for (int thread = 0; thread < size(); ++thread)
            tickets_[thread].next.store(uint64_t(round) << 32 | uint64_t(begin(count, thread)));
        round_.store(round);
        if (sleeping_.load() > 0) wake();
        take(round, 0);
        for (int spins = 0; loop.done.load() < uint32_t(count); ++spins) {
            if (spins < SPINS) pause(0);
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

    struct alignas(128) Ticket {
        std::atomic<uint64_t> next{0};  // round above, next item below
    };

    void pause(int thread) const {
        idle_(thread);
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // Takes items of this round until there are none, first its own.
    void take(uint32_t round, int thread) {
        uint32_t done = 0;
        for (int offset = 0; offset < size(); ++offset) done += take_from((thread + offset) % size(), round, thread);
        if (done > 0) loops_[round % 2].done.fetch_add(done);
    }

    // An item is ours when the ticket, which names the round, could be raised: then the round is not over, and what its
    // Loop says is still true.
    uint32_t take_from(int owner, uint32_t round, int thread) {
        Loop& loop = loops_[round % 2];
        std::atomic<uint64_t>& next = tickets_[owner].next;
        uint32_t done = 0;
        uint64_t ticket = next.load();
        while (uint32_t(ticket >> 32) == round) {
            const uint32_t item = uint32_t(ticket);
            const int64_t count = loop.count.load();
            const Call call = loop.call.load();
            const void* work = loop.work.load();
            if (item >= end(count, owner)) break;
            if (!next.compare_exchange_weak(ticket, ticket + 1)) continue;
            call(work, item, thread);
            ++done;
            ticket = next.load();
        }
        return done;
    }

    void serve(int thread) {
        uint32_t seen = 0;
        while (true) {
            uint32_t round = round_.load();
            for (int spins = 0; round == seen && spins < SPINS; ++spins) {
                pause(thread);
                round = round_.load();
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
        if (round_.load() == seen) syscall(SYS_futex, &signal_, FUTEX_WAIT_PRIVATE, signal, nullptr);
        sleeping_.fetch_sub(1);
    }

    void wake() {
        signal_.fetch_add(1);
        syscall(SYS_futex, &signal_, FUTEX_WAKE_PRIVATE, INT_MAX);
    }

    const std::function<void(int)> idle_;
    std::vector<std::thread> workers_;
    Loop loops_[2];
    std::vector<Ticket> tickets_;  // per thread
    std::atomic<uint32_t> round_{0};
    std::atomic<uint32_t> signal_{0};
    std::atomic<int> sleeping_{0};
    std::atomic<bool> stopping_{false};
};

}  // namespace paceline
