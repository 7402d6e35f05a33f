/* The part of the C ABI that fits linear models row by row. Conventions and error codes are those of
 * fastgd.h. */
#ifndef FASTGD_ONLINE_H
#define FASTGD_ONLINE_H

#include "fastgd.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(FGD_EXPORTS) && defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility push(default)
#endif

/* cdef begin: from here to "cdef end" the text is also read by cffi */

/* ---- Linear models, fitted row by row --------------------------------------------------------------- */

/* Stochastic gradient descent over single rows, as scikit-learn's SGDClassifier and SGDRegressor do it: the
 * prediction for a row x is p = w x + intercept, its loss is of p and of the row's target. Results have the
 * same bits on every instruction set. One call works on one thread. */
typedef struct fgd_online_loss_info {
    const char *name, *a; /* a: what its parameter is; NULL where it has none */
    double negative;      /* where targets are two classes: that of the second, the first one's being 1 */
} fgd_online_loss_info;
int fgd_online_loss_count(void);
const fgd_online_loss_info *fgd_online_loss_at(int kind); /* NULL when there is none */
int fgd_online_loss_find(const char *name);               /* its kind, or FGD_ERROR_LOSS */

/* The rate eta of the row number t. PA1 and PA2 (Crammer et al. 2006, section 3) take steps that depend on
 * the row's loss instead, of at most eta0, and with eta0 for its softness. */
typedef enum fgd_rate {
    FGD_RATE_CONSTANT = 0,   /* eta0 */
    FGD_RATE_OPTIMAL = 1,    /* 1 / (alpha (t0 + t - 1)), t0 from alpha and the loss */
    FGD_RATE_INVSCALING = 2, /* eta0 / t^power_t */
    FGD_RATE_ADAPTIVE = 3,   /* eta0, divided by 5 instead of ending, while it is above 1e-6 */
    FGD_RATE_PA1 = 4,
    FGD_RATE_PA2 = 5
} fgd_rate;

typedef struct fgd_online {
    int32_t loss, rate;
    int32_t shuffled;        /* 1: each epoch takes the rows in another order */
    int32_t measured;        /* 1: losses and objective are added up */
    int32_t judged;          /* 1: each epoch is, by its objective; needs measured */
    uint32_t seed;           /* of the orders */
    double a;                /* the loss's parameter; ignored where it has none */
    double l2, l1;           /* the penalty l2 |w|^2 / 2 + l1 |w|_1 */
    double alpha;            /* for FGD_RATE_OPTIMAL; ignored by others */
    double eta0, power_t;
    double intercept_factor; /* the intercept's steps are so many times those of weights; 0: it stays */
    double positive, negative; /* weights of rows whose targets are above 0, and of others */
    double average;          /* the row number from which on weights are averaged; 0: they are not */
    double tol;              /* an epoch that is not better by as much is without gain; -INFINITY: none is */
    int64_t patience;        /* epochs without gain, one behind the other, that end the fit */
} fgd_online;

/* The rows, in C order, dense or sparse. */
typedef struct fgd_online_rows {
    int64_t rows, cols;      /* at most INT32_MAX each */
    const void *x;           /* [rows, cols]; sparse: the numbers that are there */
    const int32_t *columns;  /* sparse: the column of each; NULL for dense rows */
    const int64_t *starts;   /* sparse: [rows + 1], where each row begins, and the end of the last */
    const void *targets;     /* [rows] */
    const void *weights;     /* [rows], or NULL: 1 */
    const uint8_t *held_out; /* [rows], 1: nothing is learned from the row; or NULL */
} fgd_online_rows;

/* What is fitted, and scratch memory. */
typedef struct fgd_online_model {
    void *weights;  /* [cols] */
    void *averages; /* [cols] with of.average, or NULL */
    void *cuts;     /* [cols] with of.l1, or NULL; scratch */
    int32_t *order; /* [rows]; scratch */
} fgd_online_model;

typedef enum fgd_online_end {
    FGD_ONLINE_GOES_ON = 0,
    FGD_ONLINE_CONVERGED = 1,
    FGD_ONLINE_NOT_FINITE = 2 /* the intercept or a weight */
} fgd_online_end;

/* The caller gives intercept, average_intercept and t to fgd_online_begin, which sets all others. */
typedef struct fgd_online_state {
    double intercept, average_intercept;
    double t;                  /* the next row's number, from 1 on */
    double eta;                /* the last rate */
    double scale;              /* weights are this times what stands in model.weights, until the end */
    double squares, absolutes; /* of the weights: sum of squares, sum of absolute values */
    double share, divisor;     /* averages are (model.averages + share * model.weights) / divisor, so long */
    double cut;                /* what the L1 penalty could have taken from every weight */
    double t0;                 /* of FGD_RATE_OPTIMAL */
    double loss, objective;    /* means of the last epoch, 0 unless measured */
    double best;               /* least value judged */
    int64_t without_gain, epochs, rows; /* epochs in a row; done in all; updates in all */
    int32_t ended;             /* an fgd_online_end */
} fgd_online_state;

/* Whether all is well, sparse columns included, which the functions below do not look at again. */
int fgd_online_check(int dtype, const fgd_online *of, const fgd_online_rows *rows);
int fgd_online_begin(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                     const fgd_online_model *model, fgd_online_state *state);

/* So many epochs, fewer when state.ended says so. */
int fgd_online_fit(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                   const fgd_online_model *model, int64_t epochs, fgd_online_state *state);

/* Judges the last epoch by a value that is to fall; for callers, where of.judged is 0. */
int fgd_online_judge(const fgd_online *of, double value, fgd_online_state *state);

/* Multiplies out weights and averages. */
int fgd_online_finish(int dtype, const fgd_online *of, const fgd_online_rows *rows,
                      const fgd_online_model *model, fgd_online_state *state);

/* cdef end */

#if defined(FGD_EXPORTS) && defined(__GNUC__) && !defined(_WIN32)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
