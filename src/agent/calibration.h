/* How much a model's confidence is worth. The product of its tokens' probabilities says how sure it is; a table, fitted on decisions of
 * which it is known whether the fair oracle would have done the same, says how often it is right when it is so sure. */
#ifndef AGENT_CALIBRATION_H
#define AGENT_CALIBRATION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

enum { CALIBRATION_POINTS = 64 };
struct calibration {
    char model[96];
    int count;                                    /* of points; 0: confidence is taken as it is */
    float raw[CALIBRATION_POINTS], right[CALIBRATION_POINTS]; /* rising; between two points a straight line */
    long samples;
    double error_before, error_after;             /* expected calibration error on decisions that were not fitted; NAN: unknown */
};

struct calibration_sample {
    float confidence;
    bool right;
    int group; /* episode: samples of one group are fitted or tested together */
};

/* Isotonic regression (pool adjacent violators, Ayer et al. 1955) of right on confidence. The errors come from fitting each half of the
 * groups and testing on the other. samples are sorted in place. Fails with fewer than CALIBRATION_LEAST. */
enum { CALIBRATION_LEAST = 50 };
int calibration_fit(struct calibration_sample *samples, size_t count, struct calibration *out, struct err *err);
/* 0 stays 0: not known. */
float calibration_apply(const struct calibration *c, float confidence);
/* Mean distance of confidence and frequency over ten equal bins, weighted by how many fall into each (Naeini et al. 2015). c may be NULL. */
double calibration_error(const struct calibration *c, const struct calibration_sample *samples, size_t count);

/* {"format":1, "model", "samples", "error_before", "error_after", "points":[[raw, right], ..]} */
void calibration_write(const struct calibration *c, struct buf *out);
int calibration_read(const char *path, struct calibration *out, struct err *err);

#endif
