/* fastgd.hpp: what its rules compute, printed for test_library.py to compare, and what it refuses. */
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "fastgd.hpp"

static int failures = 0;

static void expect(bool holds, const char *what) {
    if (holds) return;
    std::printf("FAILED %s\n", what);
    failures++;
}

using Invalid = std::invalid_argument;

/* Whether the call throws this, with these words in its message. */
template <class Exception, class Call> static bool refuses(Call call, const std::string &words) {
    try {
        call();
    } catch (const Exception &error) {
        return std::string(error.what()).find(words) != std::string::npos;
    }
    return false;
}

/* Four steps from gradients that the other side makes, too: the parameters, and each slot's sum. */
template <class T> static void show(const char *name, const fastgd::Rule &rule) {
    std::vector<T> first{T(1), T(-2), T(0.5)}, second{T(3)}, first_gradient(3), second_gradient(1);
    fastgd::Optimizer optimizer(rule);
    optimizer.options.clip_norm = 2;
    optimizer.add(first, first_gradient, 3);
    optimizer.add(second, second_gradient, 1);
    for (int step = 0; step < 4; step++) {
        for (int i = 0; i < 3; i++) first_gradient[std::size_t(i)] = T(i - 1 + step) / T(4);
        second_gradient[0] = T(step - 2);
        optimizer.step();
    }
    std::printf("%s %s", name, sizeof(T) == 8 ? "float64" : "float32");
    for (T value : first) std::printf(" %.17g", double(value));
    std::printf(" %.17g\n", double(second[0]));
}

template <class T> static void show_all() {
    using fastgd::Rule;
    Rule sgd("sgd");
    sgd.set("lr", 0.1).set("momentum", 0.9).set("dampening", 0.25).set("weight_decay", 0.03);
    show<T>("sgd", sgd);
    show<T>("nesterov", sgd.set("dampening", 0).set("nesterov", 1).set("maximize", 1));
    Rule adamw("adamw");
    adamw.set("lr", 0.1).set("betas[0]", 0.8).set("betas[1]", 0.95).set("eps", 1e-6).set("weight_decay", 0.2);
    show<T>("adamw", adamw);
    show<T>("amsgrad", adamw.set("amsgrad", 1));
    show<T>("lion", Rule("lion").set("lr", 0.1).set("betas[0]", 0.85).set("betas[1]", 0.95));
    show<T>("yogi", Rule("yogi").set("lr", 0.1).set("initial_accumulator_value", 0.5));
    show<T>("nadam", Rule("nadam").set("lr", 0.1).set("momentum_decay", 0.3));
    show<T>("rprop", Rule("rprop").set("lr", 0.1));
    show<T>("schedule_free", Rule("adamw_schedule_free").set("lr", 0.1).set("warmup_steps", 3));
    show<T>("adafactor", Rule("adafactor").set("lr", 0.1));
}

static void check_optimizer() {
    std::vector<float> w{1, 2}, g{3, NAN};
    const std::vector<float> short_one{1};
    const fastgd::Rule rule = fastgd::Rule("adamw").set("lr", 0.5);
    fastgd::Optimizer optimizer(rule);
    expect(refuses<Invalid>([&] { optimizer.add(w, short_one); }, "2 elements"), "another size");
    optimizer.add(fastgd::Span(w.data(), 2), fastgd::Span<const float>(g.data(), 2));
    optimizer.options.skip_nonfinite = 1;
    expect(optimizer.step().skipped == 1 && w[0] == 1 && optimizer.steps(0) == 0, "a step that is skipped");
    g[1] = 4;
    fastgd::Optimizer moved = std::move(optimizer);
    expect(moved.step().skipped == 0 && w[0] < 1 && moved.steps(0) == 1, "a step when moved");
    const fastgd::Span<float> average = moved.state<float>(0, "exp_avg");
    expect(average.size() == 2 && std::fabs(average[1] - 0.4f) < 1e-6f, "its state");
    expect(refuses<Invalid>([&] { moved.state<float>(0, "max_exp_avg_sq"); }, "adam"), "no slot");
    expect(refuses<Invalid>([&] { moved.state<double>(0, "exp_avg"); }, "type"), "another type");
    moved.options.grad_scale = 0;
    const float before = w[0];
    expect(refuses<fastgd::Error>([&] { moved.step(); }, fgd_error_text(FGD_ERROR_OPTION)), "a bad option");
    expect(w[0] == before && moved.steps(0) == 1, "nothing is changed");
    moved.options.grad_scale = 1;
    std::vector<double> late{1}, late_gradient{1}; /* its step is its own: that of Adam's first is lr */
    moved.add(late, late_gradient);
    moved.rule.set("weight_decay", 0);
    moved.step();
    expect(std::fabs(late[0] - 0.5) < 1e-6 && moved.steps(0) == 2 && moved.steps(1) == 1, "one added later");
    fastgd::Optimizer empty(rule);
    expect(empty.step().skipped == 0, "no parameters");
    std::vector<float> nothing;
    empty.add(nothing, nothing);
    empty.step();
    expect(empty.steps(0) == 1, "a parameter without elements");
}

static void check_names() {
    expect(refuses<fastgd::Error>([] { fastgd::Rule("no such rule"); }, "no such rule: "), "a rule");
    expect(refuses<fastgd::Error>([] { fastgd::Rule("sgd").set("l", 1); }, "l: "), "a hyperparameter");
    expect(refuses<fastgd::Error>([] { fastgd::Rule("sgd").set("lr", -1); }, "lr: "), "out of range");
    std::vector<float> w{1, 2}, g{3, 4};
    fastgd::Optimizer nesterov(fastgd::Rule("sgd").set("nesterov", 1));
    expect(refuses<fastgd::Error>([&] { nesterov.add(w, g); }, "sgd: "), "what does not go together");
    expect(refuses<Invalid>([&] { nesterov.add(w, g, 3); }, "no 3 rows"), "rows");
    expect(refuses<fastgd::Error>([] { fastgd::activation("rel"); }, "rel: "), "an activation");
    try {
        fastgd::check(FGD_ERROR_SLOT);
    } catch (const fastgd::Error &error) {
        expect(error.code() == FGD_ERROR_SLOT && error.what() == std::string(fgd_error_text(FGD_ERROR_SLOT)),
               "code");
    }
}

static void check_program() {
    const fgd_activation relu = fastgd::activation("relu");
    std::vector<double> z{-1, 2}, y(2);
    fastgd::Program program(FGD_F64);
    program.add("activation_forward", relu, {2}, {z.data(), y.data()});
    program.run();
    expect(y[0] == 0 && y[1] == 2, "a program");
    expect(refuses<fastgd::Error>([&] { program.add("act", relu, {2}, {}); }, "act: "), "an entry");
    expect(refuses<Invalid>([&] { program.add("activation_forward", relu, {2, 2}, {}); },
                                          "takes 1 sizes and 2 pointers"), "numbers of sizes and pointers");
    program.add("activation_forward", relu, {2}, {z.data(), nullptr});
    expect(refuses<fastgd::Error>([&] { program.run(); }, "operation 1 (activation_forward)"), "what failed");
    std::vector<double> w{1}, g{1};
    fastgd::Optimizer optimizer(fastgd::Rule("sgd"));
    optimizer.add(w, g);
    expect(refuses<fastgd::Error>([&] { optimizer.step(program); }, "operation 1"), "before the step");
    expect(w[0] == 1 && optimizer.steps(0) == 0, "no step behind a program that fails");
}

int main() {
    show_all<float>();
    show_all<double>();
    check_optimizer();
    check_names();
    check_program();
    return failures != 0;
}
