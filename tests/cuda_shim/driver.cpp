// Runs one request from standard input on the shim and writes the buffers back: tests/support/cuda_host.py is the other side.
//
// A request is lines "key value", then "buffers N" and N lines "name bytes", then the buffers themselves. Each buffer is a
// heap block of exactly that size. The answer is a line of the plan's fields and the buffers named by `results`.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "group_norm_act/cuda.cu"
#include "guided_step/cuda.cu"
#include "self_test.h"

using namespace glide_fast;
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

template <typename T = void>
T* address(const std::string& name) {
    const auto buffer = buffers.find(name);
    return buffer == buffers.end() ? nullptr : reinterpret_cast<T*>(buffer->second.data.get() + integer(name + ".offset"));
}

Rows rows(const std::string& name) {
    return {address(name), integer(name + ".sample_stride"), integer(name + ".row_stride")};
}
PerChannel per_channel(const std::string& name) {
    return {address(name), Dtype(integer(name + ".dtype")), integer(name + ".sample_stride")};
}
Images images(const std::string& name) {
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
    g.rows = integer("rows");
    g.channels = integer("channels");
    g.groups = integer("groups");
    g.width = integer("width");
    g.x = rows("x");
    g.x2 = rows("x2");
    g.x_channels = integer("x_channels");
    g.residual = rows("residual");
    g.sum = rows("sum");
    g.x_bias = per_channel("x_bias");
    g.weight = per_channel("weight");
    g.bias = per_channel("bias");
    g.scale = per_channel("scale");
    g.shift = per_channel("shift");
    g.eps = number("eps");
    g.silu = integer("silu");
    g.resample = Resampling(integer("resample"));
    g.windows = integer("windows");
    g.y = rows("y");
    g.out_dtype = has("out_dtype") ? Dtype(integer("out_dtype")) : g.dtype;
    return g;
}

void run_group_norm_act(const GroupNormAct& g, const Plan& p) {
    std::vector<unsigned char> workspace(std::size_t(p.workspace_bytes), 0xff);
    group_norm_act(g, p, p.workspace_bytes ? std::uintptr_t(workspace.data()) : 0, 0, Overlap(integer("overlap")));
}

// Every choice of "choices" ("one_pass,slab,chunks,threads,held;..."): says which fit, and keeps y of each, poisoned before.
std::string run_choices(const GroupNormAct& g) {
    const Buffer& y = buffers.at("y");
    std::istringstream list(text("choices"));
    std::string answers, each;
    for (int i = 0; std::getline(list, each, ';'); ++i) {
        Choice choice{};
        int one_pass = 0, held = 0;
        if (std::sscanf(each.c_str(), "%d,%d,%d,%d,%d", &one_pass, &choice.slab, &choice.chunks, &choice.threads, &held) != 5)
            throw std::runtime_error("not a choice: " + each);
        choice.one_pass = one_pass;
        choice.held = held;
        Plan plan{};
        if (!plan_fits(g, current_device(), choice, plan)) continue;
        std::memset(y.data.get(), 0xff, y.bytes);
        run_group_norm_act(g, plan);
        std::cout << i << " ";
        answers.append(reinterpret_cast<const char*>(y.data.get()), y.bytes);
    }
    return answers;
}

void run_group_norm_act() {
    const GroupNormAct g = group_norm_act_request();
    const Choice choice{integer("one_pass") != 0, int(integer("slab")), int(integer("chunks")), int(integer("threads")), integer("held") != 0};
    const Plan p = has("slab") ? plan_group_norm_act(g, current_device(), choice) : plan_group_norm_act(g, current_device(), text("variant"));
    run_group_norm_act(g, p);
    std::cout << "one_pass " << p.one_pass << " vector " << p.vector << " threads " << p.threads << " slab " << p.slab
              << " pieces " << p.pieces << " slabs " << p.slabs << " chunks " << p.chunks << " chunk_rows " << p.chunk_rows
              << " shared_bytes " << p.shared_bytes << " held " << p.held;
}

void run_guided_step() {
    GuidedStep g{};
    g.samples = integer("samples");
    g.channels = integer("channels");
    g.positions = integer("positions");
    g.x = address<const float>("x");
    g.known = address<const float>("known");
    g.known_mask = address<const float>("known_mask");
    g.score = address<const float>("score");
    g.noise = address<const float>("noise");
    g.next_x = address<float>("next_x");
    g.x0 = address<float>("x0");
    g.next_history = address<float>("history");
    g.history = g.next_history;
    g.remember_eps = integer("remember_eps");
    g.clip = integer("clip");
    g.model_out = images("model_out");
    g.guided = integer("guided");
    g.guidance_scale = float(number("guidance_scale"));
    g.guidance_scales = address<const float>("guidance_scales");
    g.guidance_stride = integer("guidance_scales.stride");
    g.table = address<const float>("table");
    g.table_rows = integer("table_rows");
    g.step = address<const std::int64_t>("step");
    g.step_stride = integer("step.stride");
    g.seeds = address<const std::int64_t>("seeds");
    g.stream = std::uint32_t(integer("stream"));
    g.inputs = images("inputs");
    g.copies = integer("copies");
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
        if (has("max_cluster")) machine.max_cluster = int(integer("max_cluster"));
        if (has("capability")) machine.capability = int(integer("capability"));
        const std::string op = text("op");
        std::string answers;
        if (has("choices")) {
            answers = run_choices(group_norm_act_request());
        } else if (op == "group_norm_act") {
            run_group_norm_act();
        } else if (op == "guided_step") {
            run_guided_step();
        } else {
            self_test::run(op);
        }
        std::cout << "\n" << answers;
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
