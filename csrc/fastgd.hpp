/* The C ABI for C++17: owned state, hyperparameters by name, and exceptions in place of error codes.
 *
 *     std::vector<float> weight(1000), gradient(1000);
 *     fastgd::Optimizer optimizer(fastgd::Rule("adamw").set("lr", 3e-4));
 *     optimizer.add(weight, gradient);
 *     optimizer.step(); // reads gradient, updates weight
 *
 * Header only, over fastgd.h, which it includes and which says more about everything here. */
#ifndef FASTGD_HPP
#define FASTGD_HPP

#include <array>
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

/* ---- Rules: what makes the fgd_group of a step ------------------------------------------------------- */

/* Any rule of Python's by its name ("adamw", "lion", ...), with hyperparameters, at first the defaults. */
class Rule {
public:
    /* Throws Error (FGD_ERROR_RULE) for a name that is none. */
    explicit Rule(const char *name) : number_(check(fgd_optimizer_find(name), name)) {
        fgd_hyperparameter_defaults(number_, values_);
    }

    /* Sets a hyperparameter, of a pair one ("betas[0]"), and returns the rule. Flags are 0 or 1, and to be
     * set before the first parameter is added: state is made for them as they are then. Throws Error
     * (FGD_ERROR_HYPERPARAMETER) for a name that is none, and out of its range. */
    Rule &set(const char *name, double value) {
        check(fgd_hyperparameter_set(number_, values_, name, value), name);
        return *this;
    }

    /* The rule's row. */
    const fgd_optimizer *row() const noexcept { return fgd_optimizer_at(number_); }

    /* The value of a hyperparameter by its place in the row. */
    double value(int place) const { return values_[place]; }

    /* Sets what a step takes, and what is carried to the next. Throws Error (FGD_ERROR_HYPERPARAMETER) for
     * hyperparameters that do not go together. */
    void fold(const fgd_tensor &tensor, std::int64_t step, double *carried, fgd_group &group) const {
        check(fgd_fold(number_, values_, &tensor, step, carried, &group), row()->name);
    }

private:
    int number_;
    double values_[FGD_MAX_HYPERPARAMETERS] = {};
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

/* Steps of one rule over any number of parameters, whose state it owns. Can be moved, not copied. */
class Optimizer {
public:
    /* Hyperparameters; may be changed between two steps, but for what decides on state (flags). */
    Rule rule;

    /* Clipping, scaling and what happens at NaN and infinity; at first no clipping, no scaling, and steps are
     * made whatever the gradients are. */
    fgd_options options{};

    explicit Optimizer(const Rule &of) : rule(of) {
        options.grad_scale = 1;
        options.clip_value = options.clip_norm = options.clip_unit = std::numeric_limits<double>::infinity();
        options.total_norm = -1;
        make_workspace();
    }
    Optimizer(const Optimizer &) = delete;
    Optimizer &operator=(const Optimizer &) = delete;
    Optimizer(Optimizer &&) = default;
    Optimizer &operator=(Optimizer &&) = default;

    /* Adds a parameter and its gradient, of one size, which have to stay where they are, with the state that
     * the rule begins with. rows: of a matrix, which "muon" takes alone and "adafactor" keeps less state for;
     * 0: it is none. Throws std::invalid_argument where sizes differ or rows do not divide them, Error for
     * hyperparameters that do not go together. */
    void add(Span<float> parameter, Span<const float> gradient, std::int64_t rows = 0) {
        add_of(parameter, gradient, rows);
    }
    void add(Span<double> parameter, Span<const double> gradient, std::int64_t rows = 0) {
        add_of(parameter, gradient, rows);
    }

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
        return made(report);
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
        return made(report);
    }

    /* Updates that the parameter has had, the first added being 0; may be set, with its state. */
    std::int64_t &steps(std::size_t parameter) { return steps_.at(parameter); }

    /* The state of a parameter in a slot of the rule, named as in rules.def; T is the parameter's. Throws
     * std::invalid_argument where there is none of this name or it is not in use. */
    template <class T> Span<T> state(std::size_t parameter, const std::string &slot) {
        const fgd_tensor &tensor = tensors_.at(parameter);
        const fgd_rule *row = fgd_rule_at(rule.row()->rule);
        for (int i = 0; i < row->n_slots; i++)
            if (slot == row->slots[i] && tensor.state[i] && tensor.dtype == dtype_of<T>)
                return {static_cast<T *>(tensor.state[i]), std::size_t(slot_size(*row, i, tensor))};
        throw std::invalid_argument(std::string(row->name) + " keeps no " + slot + " of this type");
    }

private:
    using Carried = std::array<double, FGD_MAX_CARRIED>;

    template <class T> void add_of(Span<T> parameter, Span<const T> gradient, std::int64_t rows) {
        const std::int64_t size = std::int64_t(parameter.size());
        if (parameter.size() != gradient.size())
            throw std::invalid_argument("a parameter of " + std::to_string(size) +
                                        " elements has a gradient of " + std::to_string(gradient.size()));
        if (rows < 0 || (rows > 0 && size % rows))
            throw std::invalid_argument("a parameter of " + std::to_string(size) + " elements has no " +
                                        std::to_string(rows) + " rows");
        const fgd_rule *row = fgd_rule_at(rule.row()->rule);
        fgd_tensor tensor{};
        tensor.size = size;
        tensor.group = std::int32_t(groups_.size());
        tensor.dtype = tensor.grad_dtype = tensor.copy_dtype = dtype_of<T>;
        tensor.param = parameter.data();
        tensor.grad = gradient.data();
        tensor.stream = tensors_.size();
        if (row->orthogonal) tensor.matrix_rows = rows;
        else if (rows > 0) tensor.factor_rows = rows, tensor.factor_cols = size / rows;
        fgd_group group{};
        Carried carried;
        for (int i = 0; i < FGD_MAX_CARRIED; i++) carried[std::size_t(i)] = rule.row()->carried_at_first[i];
        Carried next = carried;
        rule.fold(tensor, 1, next.data(), group);
        for (int i = 0; i < row->n_slots; i++) {
            tensor.state_dtype[i] = dtype_of<T>;
            if (row->slot_switch[i] >= 0 && !(group.switches >> row->slot_switch[i] & 1)) continue;
            const int initial = rule.row()->slot_initial[i];
            auto slot = std::make_shared<std::vector<T>>(std::size_t(slot_size(*row, i, tensor)),
                                                         initial < 0 ? T(0) : T(rule.value(initial)));
            tensor.state[i] = slot->data();
            state_.push_back(std::move(slot));
        }
        steps_.push_back(0);
        tensor.step = &steps_.back();
        carried_.push_back(carried);
        next_.push_back(next);
        tensors_.push_back(tensor);
        groups_.push_back(group);
        make_workspace();
    }

    static std::int64_t slot_size(const fgd_rule &row, int slot, const fgd_tensor &tensor) {
        if (slot == row.row_slot && tensor.factor_cols) return tensor.size / tensor.factor_cols;
        if (slot == row.col_slot && tensor.factor_rows) return tensor.size / tensor.factor_rows;
        return tensor.size;
    }

    void make_workspace() {
        const std::int64_t bytes = fgd_workspace_size(tensors_.data(), std::int64_t(tensors_.size()));
        workspace_.resize(std::size_t(bytes / 8 + 1));
    }

    /* each parameter has a group, since it may have been added later than another, or have another shape */
    void fold() {
        next_ = carried_;
        for (std::size_t i = 0; i < groups_.size(); i++)
            rule.fold(tensors_[i], steps_[i] + 1, next_[i].data(), groups_[i]);
    }

    fgd_report made(const fgd_report &report) {
        if (!report.skipped) carried_ = next_;
        return report;
    }

    void checked(int code, const fgd_report &report, std::string about) const {
        if (code && about.empty() && report.error_tensor >= 0)
            about = "parameter " + std::to_string(report.error_tensor);
        check(code, about);
    }

    std::int64_t workspace_bytes() const { return std::int64_t(workspace_.size() * sizeof(std::int64_t)); }

    std::vector<fgd_group> groups_;
    std::vector<Carried> carried_, next_; /* into and out of the step that is made */
    std::vector<fgd_tensor> tensors_;
    std::deque<std::int64_t> steps_; /* whose elements stay where they are */
    std::vector<std::shared_ptr<void>> state_;
    std::vector<std::int64_t> workspace_;
};

} // namespace fastgd

#endif
