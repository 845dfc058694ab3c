#include "threads.h"

#include <algorithm>
#include <atomic>
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

class Pool {
public:
    explicit Pool(int helpers) : owner(process()), helpers(helpers) {
        for (int i = 0; i < helpers; i++) std::thread([this] { serve(); }).detach();
    }

    void run(std::int64_t count, const std::function<void(std::int64_t)>& call) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            task = &call;
            tasks = count;
            next.store(0, std::memory_order_relaxed);
            busy.store(helpers, std::memory_order_relaxed);
            generation.fetch_add(1, std::memory_order_release);
        }
        awake.notify_all();
        work();
        for (int spins = 0; busy.load(std::memory_order_acquire) > 0; spins++)
            if (spins > SPINS) std::this_thread::yield();
    }

    const int owner;  // of another process after a fork, whose threads are not here
    const int helpers;

private:
    static constexpr int SPINS = 2000;

    void work() {
        for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) (*task)(i);
    }

    void serve() {
        for (std::int64_t seen = 0;;) {
            for (int spins = 0; spins < SPINS && generation.load(std::memory_order_acquire) == seen; spins++) {
            }
            {
                std::unique_lock<std::mutex> lock(mutex);
                awake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
                seen = generation.load(std::memory_order_acquire);
            }
            work();
            busy.fetch_sub(1, std::memory_order_release);
        }
    }

    std::mutex mutex;
    std::condition_variable awake;
    std::atomic<std::int64_t> generation{0};
    std::atomic<std::int64_t> next{0};
    std::atomic<int> busy{0};
    const std::function<void(std::int64_t)>* task = nullptr;
    std::int64_t tasks = 0;
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
