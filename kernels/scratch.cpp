#include "scratch.h"

#include <mutex>

namespace graftwork {
namespace {

struct Free {
    std::mutex mutex;
    std::vector<std::unique_ptr<Scratch::Rooms>> rooms;
};

// Never destroyed: a thread may still compute when the process ends.
Free& free_rooms() {
    static Free* const found = new Free;
    return *found;
}

}  // namespace

Scratch::Scratch() {
    Free& free = free_rooms();
    const std::lock_guard<std::mutex> lock(free.mutex);
    if (free.rooms.empty()) {
        rooms = std::make_unique<Rooms>();
    } else {  // the last one, which is still in the caches
        rooms = std::move(free.rooms.back());
        free.rooms.pop_back();
    }
}

Scratch::~Scratch() {
    Free& free = free_rooms();
    const std::lock_guard<std::mutex> lock(free.mutex);
    free.rooms.push_back(std::move(rooms));
}

char* Scratch::room(std::size_t which, std::int64_t bytes) {
    std::vector<Line>& lines = rooms->at(which);
    const auto wanted = static_cast<std::size_t>((bytes + 63) / 64);
    if (lines.size() < wanted) lines.resize(wanted);
    return lines.data()->bytes;
}

}  // namespace graftwork
