/* Trains a network of two layers on a CSV file with fastgd.hpp: a header, then numbers and a class a line. */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "fastgd.hpp"

using Reals = std::vector<float>;

/* The matrix product is the program's own: plain here, and sgemm_ of a BLAS where time matters. */
static int product(char transa, char transb, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
                   const float *a, std::int64_t lda, const float *b, std::int64_t ldb, float beta, float *c,
                   std::int64_t ldc) {
    for (std::int64_t row = 0; row < m; row++)
        for (std::int64_t col = 0; col < n; col++) {
            float sum = 0;
            for (std::int64_t i = 0; i < k; i++)
                sum += (transa == 'T' ? a[i * lda + row] : a[row * lda + i]) *
                       (transb == 'T' ? b[col * ldb + i] : b[i * ldb + col]);
            c[row * ldc + col] = alpha * sum + (beta == 0 ? 0 : beta * c[row * ldc + col]);
        }
    return 0;
}

struct Table {
    std::int64_t rows = 0, cols = 0, classes = 0;
    Reals x;
    std::vector<std::int64_t> labels;
};

/* Each column is brought to mean 0 and variance 1. */
static Table read_csv(const char *path) {
    std::ifstream file(path);
    std::string line, cell;
    if (!std::getline(file, line)) throw std::runtime_error(std::string(path) + " cannot be read");
    Table table;
    table.cols = std::count(line.begin(), line.end(), ',');
    for (; std::getline(file, line); table.rows++) {
        std::istringstream cells(line);
        for (std::int64_t col = 0; std::getline(cells, cell, ','); col++)
            if (col < table.cols) table.x.push_back(std::stof(cell));
            else table.labels.push_back(std::stol(cell));
        table.classes = std::max(table.classes, table.labels.at(std::size_t(table.rows)) + 1);
    }
    for (std::int64_t col = 0; col < table.cols; col++) {
        double sum = 0, squares = 0;
        const auto each = [&](auto &&visit) {
            for (std::int64_t row = 0; row < table.rows; row++)
                visit(table.x.at(std::size_t(row * table.cols + col)));
        };
        each([&](float v) { sum += v; });
        const double mean = sum / double(table.rows);
        each([&](float v) { squares += (v - mean) * (v - mean); });
        each([&](float &v) { v = float((v - mean) / std::sqrt(squares / double(table.rows))); });
    }
    return table;
}

/* Weights begin uniform within 1 / sqrt(inputs), biases at 0. */
struct Linear {
    Reals weight, bias, dweight, dbias;

    Linear(std::int64_t in, std::int64_t out, std::mt19937 &random)
        : weight(std::size_t(in * out)), bias(std::size_t(out)), dweight(weight.size()), dbias(bias.size()) {
        std::uniform_real_distribution<float> uniform(-1, 1);
        for (float &w : weight) w = uniform(random) / std::sqrt(float(in));
    }
};

static void train(const char *path) {
    fastgd::check(fgd_set_gemm(FGD_F32, FGD_GEMM_ROW_MAJOR, fgd_function(product)));
    const Table data = read_csv(path);
    const std::int64_t rows = data.rows, in = data.cols, hidden = 16, classes = data.classes;
    std::mt19937 random(1);
    Linear first(in, hidden, random), second(hidden, classes, random);
    Reals h(std::size_t(rows * hidden)), dh(h.size()), logits(std::size_t(rows * classes)), dlogits(logits);
    std::vector<double> row_loss(std::size_t(rows), 0);
    double loss;

    /* the passes of a step: each has the sizes and pointers of its function in fastgd_layers.h */
    const fgd_activation tanh_of = fastgd::activation("tanh"), identity = fastgd::activation("identity");
    const fgd_labels mean{nullptr, 0, double(rows), -1};
    fastgd::Program program;
    program.add("linear_forward", tanh_of, {rows, in, hidden},
                {data.x.data(), first.weight.data(), first.bias.data(), nullptr, h.data()});
    program.add("linear_forward", identity, {rows, hidden, classes},
                {h.data(), second.weight.data(), second.bias.data(), nullptr, logits.data()});
    program.add("softmax_cross_entropy", mean, {rows, classes},
                {logits.data(), data.labels.data(), dlogits.data(), row_loss.data(), &loss});
    program.add("linear_backward", identity, {rows, hidden, classes},
                {h.data(), second.weight.data(), nullptr, dlogits.data(), dh.data(), second.dweight.data(),
                 second.dbias.data()});
    program.add("linear_backward", tanh_of, {rows, in, hidden},
                {data.x.data(), first.weight.data(), h.data(), dh.data(), nullptr, first.dweight.data(),
                 first.dbias.data()});

    fastgd::Optimizer optimizer(fastgd::Rule("adamw").set("lr", 0.02));
    optimizer.options.clip_norm = 1;
    for (Linear *layer : {&first, &second}) {
        optimizer.add(layer->weight, layer->dweight);
        optimizer.add(layer->bias, layer->dbias);
    }
    for (int step = 0; step <= 200; step++) {
        optimizer.step(program);
        if (step % 50) continue;
        int correct = 0;
        for (std::int64_t row = 0; row < rows; row++) {
            const float *of = logits.data() + row * classes;
            correct += std::max_element(of, of + classes) - of == data.labels[std::size_t(row)];
        }
        std::printf("step %d: loss %.4f, accuracy %.3f\n", step, loss, double(correct) / double(rows));
    }
}

int main(int argc, char **argv) try {
    if (argc < 2) throw std::runtime_error("usage: train FILE.csv");
    train(argv[1]);
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
