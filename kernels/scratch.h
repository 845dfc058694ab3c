// Memory for what one part of a call leaves to another.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "array.h"

namespace graftwork {

// Lasts for one call, whose memory is kept for the next: fresh memory would be mapped in page by page, and would not be in
// any cache. As much is kept as calls ran at the same time, whichever threads they ran on.
class Scratch {
public:
    static constexpr std::size_t ROOMS = 8;
    using Rooms = std::array<std::vector<Line>, ROOMS>;

    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // At least as many bytes, in one of the rooms; what was there is lost.
    char* room(std::size_t which, std::int64_t bytes);

private:
    std::unique_ptr<Rooms> rooms;
};

}  // namespace graftwork
