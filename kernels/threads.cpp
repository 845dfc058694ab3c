#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <unistd.h>
#endif

#include "native.h"

namespace graftwork {
namespace {

std::atomic<int> wanted{1};

int process() {
#ifdef _WIN32
    return 0;
#else
    return getpid();
#endif
}

// Consecutive tasks of one worker, of which the others take what it leaves: whoever works on one task has often fetched
// into its cache what the next one reads.
struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
};

class Pool {
public:
    explicit Pool(int helpers) : owner(process()), helpers(helpers), shares(static_cast<std::size_t>(helpers) + 1) {
        for (int i = 0; i < helpers; i++) std::thread([this, i] { serve(i + 1); }).detach();
    }

    void run(std::int64_t count, const std::function<void(std::int64_t)>& call) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            task = &call;
            const std::int64_t workers = helpers + 1;
            for (std::int64_t w = 0; w < workers; w++) {
                shares[w].next.store(count * w / workers, std::memory_order_relaxed);
                shares[w].end = count * (w + 1) / workers;
            }
            is_open = true;
            generation.fetch_add(1, std::memory_order_release);
        }
        awake.notify_all();
        work(0);
        {
            std::lock_guard<std::mutex> lock(mutex);
            is_open = false;  // who comes now finds nothing left to do, and is not waited for
        }
        for (int spins = 0; busy.load(std::memory_order_acquire) > 0; spins++)
            if (spins > SPINS) std::this_thread::yield();
    }

    const int owner;  // of another process after a fork, whose threads are not here
    const int helpers;

private:
    using Clock = std::chrono::steady_clock;
    static constexpr int SPINS = 2000;
    // How long a helper looks for the next call before it sleeps: an inference step's calls follow each other within
    // tens of microseconds, and to be woken takes as long.
    static constexpr std::chrono::microseconds PATIENCE{50};

    void work(std::size_t worker) {
        for (std::size_t turn = 0; turn < shares.size(); turn++) {
            Share& share = shares[(worker + turn) % shares.size()];
            for (std::int64_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) (*task)(i);
        }
    }

    void serve(std::size_t worker) {
        for (std::int64_t seen = 0;;) {
            const auto until = Clock::now() + PATIENCE;
            while (generation.load(std::memory_order_acquire) == seen && Clock::now() < until)
                std::this_thread::yield();  // to whoever else wants this processor
            {
                std::unique_lock<std::mutex> lock(mutex);
                awake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
                seen = generation.load(std::memory_order_acquire);
                if (!is_open) continue;
                busy.fetch_add(1, std::memory_order_relaxed);
            }
            work(worker);
            busy.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex mutex;
    std::condition_variable awake;
    std::atomic<std::int64_t> generation{0};
    std::atomic<int> busy{0};  // helpers that work on the open call
    bool is_open = false;
    const std::function<void(std::int64_t)>* task = nullptr;
    std::vector<Share> shares;
};

std::mutex running;
Pool* pool = nullptr;  // never freed: its threads wait in it until the process ends

}  // namespace

void set_threads(int count) { wanted = count; }

int thread_count() { return wanted; }

void for_each_task(std::int64_t tasks, bool parallel, const std::function<void(std::int64_t)>& task) {
    const int threads = wanted;
    if (parallel && threads > 1 && tasks > 1) {
        std::unique_lock<std::mutex> lock(running, std::try_to_lock);
        if (lock.owns_lock()) {
            if (!pool || pool->owner != process() || pool->helpers != threads - 1) pool = new Pool(threads - 1);
            pool->run(tasks, task);
            return;
        }
    }
    for (std::int64_t i = 0; i < tasks; i++) task(i);
}

}  // namespace graftwork
