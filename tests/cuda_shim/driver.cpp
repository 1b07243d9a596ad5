// Runs one request from standard input on the shim and writes the buffers back: tests/support/cuda_host.py is the other side.
//
// A request is lines "key value", then "buffers N" and N lines "name bytes", then the buffers themselves. Each buffer is a
// heap block of exactly that size. The answer is a line of the plan's fields and the buffers named by `results`.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "../../csrc/cuda/group_norm_act.cu"
#include "../../csrc/cuda/guided_step.cu"
#include "self_test.h"

using namespace glide_fast::cuda;

namespace {

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

struct Buffer {
    std::size_t bytes;
    std::unique_ptr<unsigned char, Free> data;
};

std::map<std::string, std::string> values;
std::map<std::string, Buffer> buffers;

bool has(const std::string& key) { return values.count(key); }
std::string text(const std::string& key) { return has(key) ? values[key] : ""; }
std::int64_t integer(const std::string& key) { return has(key) ? std::stoll(values[key]) : 0; }
double number(const std::string& key) { return has(key) ? std::stod(values[key]) : 0; }

std::uintptr_t address(const std::string& name) {
    const auto buffer = buffers.find(name);
    return buffer == buffers.end() ? 0 : std::uintptr_t(buffer->second.data.get()) + std::uintptr_t(integer(name + ".offset"));
}

Rows rows(const std::string& name) {
    return {address(name), integer(name + ".sample_stride"), integer(name + ".row_stride")};
}
PerChannel per_channel(const std::string& name) {
    return {address(name), Dtype(integer(name + ".dtype")), integer(name + ".sample_stride")};
}
Image image(const std::string& name) {
    return {address(name), Dtype(integer(name + ".dtype")), integer(name + ".sample_stride"),
            integer(name + ".channel_stride"), integer(name + ".position_stride")};
}

void read_request() {
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        std::string key, value;
        words >> key >> value;
        if (key != "buffers") {
            values[key] = value;
            continue;
        }
        std::vector<std::pair<std::string, std::size_t>> listed(std::stoul(value));
        for (auto& [name, bytes] : listed) {
            std::getline(std::cin, line);
            std::istringstream(line) >> name >> bytes;
        }
        for (const auto& [name, bytes] : listed) {
            void* memory = nullptr;
            if (posix_memalign(&memory, 64, bytes ? bytes : 1)) throw std::bad_alloc();
            buffers[name] = {bytes, std::unique_ptr<unsigned char, Free>(static_cast<unsigned char*>(memory))};
            std::cin.read(static_cast<char*>(memory), std::streamsize(bytes));
        }
        return;
    }
}

GroupNormAct group_norm_act_request() {
    GroupNormAct g{};
    g.dtype = Dtype(integer("dtype"));
    g.samples = integer("samples");
    g.rows = int(integer("rows"));
    g.channels = int(integer("channels"));
    g.groups = int(integer("groups"));
    g.width = int(integer("width"));
    g.x = rows("x");
    g.x2 = rows("x2");
    g.x_channels = int(integer("x_channels"));
    g.residual = rows("residual");
    g.sum = rows("sum");
    g.in_bias = per_channel("in_bias");
    g.weight = per_channel("weight");
    g.bias = per_channel("bias");
    g.scale = per_channel("scale");
    g.shift = per_channel("shift");
    g.eps = float(number("eps"));
    g.silu = integer("silu");
    g.resample = Resample(integer("resample"));
    g.y = rows("y");
    g.y_dtype = has("y_dtype") ? Dtype(integer("y_dtype")) : g.dtype;
    return g;
}

void run_group_norm_act() {
    const GroupNormAct g = group_norm_act_request();
    const Plan p = plan_group_norm_act(g, current_device(), text("variant"));
    std::vector<unsigned char> workspace(std::size_t(p.workspace_bytes), 0xff);
    group_norm_act(g, p, p.workspace_bytes ? std::uintptr_t(workspace.data()) : 0, 0);
    std::cout << "one_pass " << p.one_pass << " vector " << p.vector << " threads " << p.threads << " slab " << p.slab
              << " pieces " << p.pieces << " slabs " << p.slabs << " chunks " << p.chunks << " chunk_rows " << p.chunk_rows
              << " shared_bytes " << p.shared_bytes;
}

void run_guided_step() {
    GuidedStep g{};
    g.samples = integer("samples");
    g.channels = integer("channels");
    g.positions = integer("positions");
    g.x = address("x");
    g.known = address("known");
    g.known_mask = address("known_mask");
    g.score = address("score");
    g.noise = address("noise");
    g.x_out = address("x_out");
    g.x0_out = address("x0_out");
    g.history_in = g.history_out = address("history");
    g.remember_eps = integer("remember_eps");
    g.clip = integer("clip");
    g.model_out = image("model_out");
    g.guided = integer("guided");
    g.guidance = float(number("guidance"));
    g.guidance_data = address("guidance");
    g.guidance_stride = integer("guidance.stride");
    g.table = address("table");
    g.table_rows = integer("table_rows");
    g.step = address("step");
    g.step_stride = integer("step.stride");
    g.seeds = address("seeds");
    g.stream = std::uint32_t(integer("stream"));
    g.next = image("next");
    g.copies = int(integer("copies"));
    guided_step(g, 0);
}

}  // namespace

int main() {
    try {
        read_request();
        auto& machine = shim::machine;
        machine.backwards = integer("backwards");
        if (has("multiprocessors")) machine.multiprocessors = int(integer("multiprocessors"));
        if (has("shared_limit")) machine.shared_limit = int(integer("shared_limit"));
        if (has("capability")) machine.capability = int(integer("capability"));
        const std::string op = text("op");
        if (op == "group_norm_act") {
            run_group_norm_act();
        } else if (op == "guided_step") {
            run_guided_step();
        } else {
            self_test::run(op);
        }
        std::cout << "\n";
        std::istringstream results(text("results"));
        for (std::string name; std::getline(results, name, ',');)
            std::cout.write(reinterpret_cast<const char*>(buffers.at(name).data.get()), std::streamsize(buffers.at(name).bytes));
        std::cout.flush();
        return 0;
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
