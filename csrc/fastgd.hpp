/* The C ABI for C++17: owned state, hyperparameters by name, and exceptions in place of error codes.
 *
 *     std::vector<float> weight(1000), gradient(1000);
 *     fastgd::AdamW rule;
 *     rule.lr = 3e-4;
 *     fastgd::Optimizer optimizer(rule);
 *     optimizer.add(weight, gradient);
 *     optimizer.step(); // reads gradient, updates weight
 *
 * Header only, over fastgd.h, which it includes and which says more about everything here. */
#ifndef FASTGD_HPP
#define FASTGD_HPP

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "fastgd.h"

namespace fastgd {

/* An error code of fastgd.h. what() is its sentence, with what it is about where that is known. */
class Error : public std::runtime_error {
public:
    explicit Error(int code, const std::string &about = "")
        : std::runtime_error((about.empty() ? about : about + ": ") + fgd_error_text(code)), code_(code) {}

    /* one of fgd_error */
    int code() const noexcept { return code_; }

private:
    int code_;
};

/* Returns what a call has returned, a number from 0 on; throws Error for an error code. */
inline int check(int code, const std::string &about = "") {
    if (code < 0) throw Error(code, about);
    return code;
}

/* Contiguous elements of someone else, as std::span of C++20: of a container with data() and size(), whose
 * elements have to stay where they are, or of a pointer and a size. */
template <class T> class Span {
public:
    Span() = default;
    Span(T *data, std::size_t size) : data_(data), size_(size) {}
    template <class Container,
              class = std::enable_if_t<
                  std::is_convertible_v<decltype(std::declval<Container>().data()), T *>>>
    Span(Container &&elements) : data_(elements.data()), size_(elements.size()) {}

    T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    T *begin() const noexcept { return data_; }
    T *end() const noexcept { return data_ + size_; }
    T &operator[](std::size_t i) const { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/* The fgd_dtype of float and double. */
template <class T> inline constexpr fgd_dtype dtype_of = FGD_F32;
template <> inline constexpr fgd_dtype dtype_of<double> = FGD_F64;

/* base^n from multiplications alone, so that every machine has the same bits. */
inline double power(double base, std::int64_t n) {
    double result = 1;
    for (; n; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return result;
}

/* ---- Rules: what makes the fgd_group of a step, of which the first is 1 ------------------------------ */

/* Any rule of the table by its name, with the switches and scalars of its row in rules.def. Scalars are 0
 * until they are set, but for the one called decay, which is 1. */
class Rule {
public:
    /* Throws Error (FGD_ERROR_RULE) for a name that is none. */
    explicit Rule(const char *name) {
        group_.rule = check(fgd_rule_find(name), name);
        row_ = fgd_rule_at(group_.rule);
        if (row_->decay >= 0) group_.scalars[row_->decay] = 1;
    }

    /* Sets a scalar, and returns the rule. Throws std::invalid_argument where there is none of this name. */
    Rule &set(const std::string &scalar, double value) {
        group_.scalars[find(row_->scalars, row_->n_scalars, scalar, "scalar")] = value;
        return *this;
    }

    /* Turns a switch on or off, and returns the rule; throws as set does. Before the first parameter is
     * added: state is made for the switches as they are then. */
    Rule &turn(const std::string &name, bool on = true) {
        const std::uint32_t bit = std::uint32_t{1} << find(row_->switches, row_->n_switches, name, "switch");
        group_.switches = on ? group_.switches | bit : group_.switches & ~bit;
        return *this;
    }

    /* What every step takes. */
    fgd_group group(std::int64_t) const { return group_; }

private:
    int find(const char *const *names, int n, const std::string &name, const char *kind) const {
        for (int i = 0; i < n; i++)
            if (name == names[i]) return i;
        throw std::invalid_argument(std::string(row_->name) + " has no " + kind + " called " + name);
    }

    fgd_group group_{};
    const fgd_rule *row_;
};

/* Stochastic gradient descent, with momentum as in Sutskever et al. 2013, section 2; weight decay is L2. */
struct SGD {
    double lr = 1e-3, momentum = 0, dampening = 0, weight_decay = 0;
    bool nesterov = false;

    fgd_group group(std::int64_t step) const {
        Rule rule("sgd");
        rule.set("lr", lr).set("momentum", momentum).set("grad_weight", step == 1 ? 1 : 1 - dampening);
        rule.set("weight_decay", weight_decay).turn("weight_decay", weight_decay != 0);
        return rule.turn("momentum", momentum != 0).turn("nesterov", nesterov).group(step);
    }
};

/* AdamW (Loshchilov and Hutter 2019, algorithm 2); with weight_decay 0 Adam (Kingma and Ba 2015, algorithm
 * 1); amsgrad: Reddi et al. 2018, algorithm 2. */
struct AdamW {
    double lr = 1e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 1e-2;
    bool amsgrad = false;

    fgd_group group(std::int64_t step) const {
        Rule rule("adam");
        rule.set("step_size", lr / (1 - power(beta1, step))).set("decay", 1 - lr * weight_decay);
        rule.set("one_minus_beta1", 1 - beta1).set("beta2", beta2).set("one_minus_beta2", 1 - beta2);
        rule.set("inv_sqrt_bias_correction2", 1 / std::sqrt(1 - power(beta2, step))).set("eps", eps);
        return rule.turn("amsgrad", amsgrad).group(step);
    }
};

/* Lion (Chen et al. 2023, algorithm 2). */
struct Lion {
    double lr = 1e-4, beta1 = 0.9, beta2 = 0.99, weight_decay = 0;

    fgd_group group(std::int64_t step) const {
        Rule rule("lion");
        rule.set("lr", lr).set("decay", 1 - lr * weight_decay);
        rule.set("beta1", beta1).set("one_minus_beta1", 1 - beta1);
        return rule.set("beta2", beta2).set("one_minus_beta2", 1 - beta2).group(step);
    }
};

/* ---- Programs ----------------------------------------------------------------------------------------- */

/* The activation of a name, with its parameters where it has some. Throws Error (FGD_ERROR_ACTIVATION). */
inline fgd_activation activation(const char *name, double a = 0, double b = 0) {
    return {check(fgd_activation_find(name), name), a, b};
}

/* Calls of passes, which run one behind the other. Arrays and what descriptions point to are the caller's
 * and have to outlive the program; the descriptions themselves are copied. */
class Program {
public:
    explicit Program(fgd_dtype dtype = FGD_F32) : dtype_(dtype) {}

    /* Adds the call of an entry of fastgd_layers.h, named without its fgd_: its description, sizes and
     * pointers in its order. Throws Error (FGD_ERROR_OP) for a name that is none, and std::invalid_argument
     * for another number of sizes or pointers than it takes. */
    template <class Description>
    void add(const char *name, const Description &of, std::initializer_list<std::int64_t> sizes,
             std::initializer_list<const void *> pointers) {
        fgd_op op{};
        op.entry = check(fgd_op_find(name), name);
        const fgd_op_info *info = fgd_op_at(op.entry);
        if (sizes.size() != std::size_t(info->n_sizes) || pointers.size() != std::size_t(info->n_pointers))
            throw std::invalid_argument(std::string(name) + " takes " + std::to_string(info->n_sizes) +
                                        " sizes and " + std::to_string(info->n_pointers) + " pointers");
        descriptions_.push_back(std::make_shared<Description>(of));
        op.dtype = dtype_;
        op.of = descriptions_.back().get();
        std::int64_t *size = op.sizes;
        for (std::int64_t given : sizes) *size++ = given;
        void **pointer = op.pointers;
        for (const void *given : pointers) *pointer++ = const_cast<void *>(given);
        ops_.push_back(op);
    }

    /* Runs all calls. Throws Error for the first that fails; those before it have done their work. */
    void run() const {
        std::int64_t failed;
        const int code = fgd_run(ops_.data(), std::int64_t(ops_.size()), &failed);
        if (code) throw Error(code, about(failed));
    }

    /* The calls as fgd_run and fgd_train take them. */
    const std::vector<fgd_op> &ops() const noexcept { return ops_; }

    /* What is said of the call that failed, by its number. */
    std::string about(std::int64_t failed) const {
        if (failed < 0 || failed >= std::int64_t(ops_.size())) return "";
        const fgd_op_info *info = fgd_op_at(ops_[std::size_t(failed)].entry);
        return "operation " + std::to_string(failed) + " (" + info->name + ")";
    }

private:
    fgd_dtype dtype_;
    std::vector<fgd_op> ops_;
    std::vector<std::shared_ptr<const void>> descriptions_;
};

/* ---- The step ------------------------------------------------------------------------------------------ */

/* Steps of one rule over any number of parameters, whose state it owns. `Kind` is a rule: it has fgd_group
 * group(int64_t step) const, as Rule, SGD, AdamW and Lion do. Can be moved, not copied. */
template <class Kind> class Optimizer {
public:
    /* Hyperparameters; may be changed between two steps, but for what decides on state (switches). */
    Kind rule;

    /* Clipping, scaling and what happens at NaN and infinity; at first no clipping, no scaling, and steps are
     * made whatever the gradients are. */
    fgd_options options{};

    explicit Optimizer(Kind of) : rule(std::move(of)) {
        options.grad_scale = 1;
        options.clip_value = options.clip_norm = options.clip_unit = std::numeric_limits<double>::infinity();
        options.total_norm = -1;
        make_workspace();
    }
    Optimizer(const Optimizer &) = delete;
    Optimizer &operator=(const Optimizer &) = delete;
    Optimizer(Optimizer &&) = default;
    Optimizer &operator=(Optimizer &&) = default;

    /* Adds a parameter and its gradient, of one size, which have to stay where they are; its state is 0.
     * Throws std::invalid_argument where the sizes differ. */
    void add(Span<float> parameter, Span<const float> gradient) { add_of(parameter, gradient); }
    void add(Span<double> parameter, Span<const double> gradient) { add_of(parameter, gradient); }

    /* One update of all parameters. With options.skip_nonfinite nothing is changed where a gradient is NaN or
     * infinite, and the report says so. Throws Error, and then nothing has been changed (but see fgd_update
     * for rules with matrix products). */
    fgd_report step() {
        fold();
        fgd_report report{};
        checked(fgd_update(groups_.data(), std::int64_t(groups_.size()), tensors_.data(),
                           std::int64_t(tensors_.size()), &options, workspace_.data(), workspace_bytes(),
                           &report),
                report, "");
        return report;
    }

    /* The program, which computes the gradients, and the step behind it, in one call. */
    fgd_report step(const Program &program) {
        fold();
        fgd_report report{};
        std::int64_t failed = -1;
        const int code = fgd_train(program.ops().data(), std::int64_t(program.ops().size()), &failed,
                                   groups_.data(), std::int64_t(groups_.size()), tensors_.data(),
                                   std::int64_t(tensors_.size()), &options, workspace_.data(),
                                   workspace_bytes(), &report);
        checked(code, report, program.about(failed));
        return report;
    }

    /* Updates that the parameter has had, the first added being 0; may be set, with its state. */
    std::int64_t &steps(std::size_t parameter) { return steps_.at(parameter); }

    /* The state of a parameter in a slot of the rule, named as in rules.def; T is the parameter's. Throws
     * std::invalid_argument where there is none of this name or it is not in use. */
    template <class T> Span<T> state(std::size_t parameter, const std::string &slot) {
        const fgd_tensor &tensor = tensors_.at(parameter);
        const fgd_rule *row = fgd_rule_at(groups_.at(parameter).rule);
        for (int i = 0; i < row->n_slots; i++)
            if (slot == row->slots[i] && tensor.state[i] && tensor.dtype == dtype_of<T>)
                return {static_cast<T *>(tensor.state[i]), std::size_t(tensor.size)};
        throw std::invalid_argument(std::string(row->name) + " keeps no " + slot + " of this type");
    }

private:
    template <class T> void add_of(Span<T> parameter, Span<const T> gradient) {
        if (parameter.size() != gradient.size())
            throw std::invalid_argument("a parameter of " + std::to_string(parameter.size()) +
                                        " elements has a gradient of " + std::to_string(gradient.size()));
        const fgd_group group = rule.group(1);
        const fgd_rule *row = fgd_rule_at(group.rule);
        steps_.push_back(0);
        fgd_tensor tensor{};
        tensor.size = std::int64_t(parameter.size());
        tensor.group = std::int32_t(groups_.size());
        tensor.dtype = tensor.grad_dtype = tensor.copy_dtype = dtype_of<T>;
        tensor.param = parameter.data();
        tensor.grad = gradient.data();
        tensor.step = &steps_.back();
        tensor.stream = tensors_.size();
        for (int i = 0; i < row->n_slots; i++) {
            tensor.state_dtype[i] = dtype_of<T>;
            if (row->slot_switch[i] >= 0 && !(group.switches >> row->slot_switch[i] & 1)) continue;
            auto zeros = std::make_shared<std::vector<T>>(parameter.size());
            tensor.state[i] = zeros->data();
            state_.push_back(std::move(zeros));
        }
        tensors_.push_back(tensor);
        groups_.push_back(group);
        make_workspace();
    }

    void make_workspace() {
        const std::int64_t bytes = fgd_workspace_size(tensors_.data(), std::int64_t(tensors_.size()));
        workspace_.resize(std::size_t(bytes / 8 + 1));
    }

    /* each parameter has a group, since it may have been added later than another */
    void fold() {
        for (std::size_t i = 0; i < groups_.size(); i++)
            groups_[i] = i && steps_[i] == steps_[i - 1] ? groups_[i - 1] : rule.group(steps_[i] + 1);
    }

    void checked(int code, const fgd_report &report, std::string about) const {
        if (code && about.empty() && report.error_tensor >= 0)
            about = "parameter " + std::to_string(report.error_tensor);
        check(code, about);
    }

    std::int64_t workspace_bytes() const { return std::int64_t(workspace_.size() * sizeof(std::int64_t)); }

    std::vector<fgd_group> groups_;
    std::vector<fgd_tensor> tensors_;
    std::deque<std::int64_t> steps_; /* whose elements stay where they are */
    std::vector<std::shared_ptr<void>> state_;
    std::vector<std::int64_t> workspace_;
};

} // namespace fastgd

#endif
