#include "memory/faiss_shim.h"

#include <omp.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <memory>

#include <faiss/IndexFlat.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/index_io.h>
#include <faiss/invlists/OnDiskInvertedLists.h>

extern "C" void openblas_set_num_threads(int); /* OpenBLAS's own threads under FAISS's OpenMP ones only get in each other's way */

struct faiss_index {
    std::unique_ptr<faiss::Index> owner;
    faiss::IndexIVFFlat *ivf;
};

namespace {

/* Counts what write_index would write: tells where the lists will lie. */
struct counter : faiss::IOWriter {
    size_t bytes = 0;
    size_t operator()(const void *, size_t size, size_t n) override { return bytes += size * n, n; }
};

void say(char *message, const char *text) { snprintf(message, FAISS_MESSAGE, "%s", text); }

int build(const float *vectors, const int64_t *ids, int64_t n, int dims, int lists, int threads, FILE *f, int64_t *start,
          char *message) {
    try {
        openblas_set_num_threads(1);
        omp_set_num_threads(threads);
        faiss::IndexFlatIP quantizer(dims);
        faiss::IndexIVFFlat index(&quantizer, dims, lists, faiss::METRIC_INNER_PRODUCT);
        /* Centroids of length 1: a list of many things that have little in common has a short mean, which is near to everything. */
        index.cp.spherical = true;
        index.cp.min_points_per_centroid = 1; /* few vectors a list are fine here; FAISS would print a warning */
        index.cp.max_points_per_centroid = 64; /* more do not help recall here, and training is most of the time */
        index.train(n, vectors);
        index.add_with_ids(n, vectors, ids);
        counter count;
        faiss::write_index(&index, &count);
        size_t head = count.bytes - (size_t)n * ((size_t)dims * sizeof(float) + sizeof(int64_t)); /* before the first list */
        *start = ftell(f);
        for (; ((size_t)*start + head) % 64; ++*start) {
            if (fputc(0, f) == EOF) return say(message, strerror(errno)), -1;
        }
        faiss::write_index(&index, f);
        return 0;
    } catch (const std::exception &e) {
        return say(message, e.what()), -1;
    } catch (...) {
        return say(message, "unknown exception"), -1;
    }
}

int open(FILE *f, struct faiss_index **out, struct faiss_view *view, char *message) {
    *out = nullptr;
    try {
        std::unique_ptr<faiss_index> x(new faiss_index);
        x->owner.reset(faiss::read_index(f, faiss::IO_FLAG_MMAP | faiss::IO_FLAG_READ_ONLY));
        x->ivf = dynamic_cast<faiss::IndexIVFFlat *>(x->owner.get());
        auto *quantizer = x->ivf ? dynamic_cast<faiss::IndexFlat *>(x->ivf->quantizer) : nullptr;
        auto *lists = x->ivf ? dynamic_cast<faiss::OnDiskInvertedLists *>(x->ivf->invlists) : nullptr;
        if (!quantizer || !lists) return say(message, "not an IVFFlat index with a flat quantizer and mapped lists"), -1;
        if (x->ivf->d <= 0 || quantizer->d != x->ivf->d || (size_t)quantizer->ntotal != x->ivf->nlist || lists->nlist != x->ivf->nlist) {
            return say(message, "quantizer, lists and dimensions do not fit together"), -1;
        }
        lists->prefetch_nthread = 0; /* else each search starts threads */
        *view = {x->ivf->d, (int)x->ivf->nlist, x->ivf->ntotal, quantizer->get_xb()};
        *out = x.release();
        return 0;
    } catch (const std::exception &e) {
        return say(message, e.what()), -1;
    } catch (...) {
        return say(message, "unknown exception"), -1;
    }
}

int64_t list(const struct faiss_index *index, int number, const float **vectors, const int64_t **ids) {
    const faiss::InvertedLists *lists = index->ivf->invlists; /* mapped: get_codes and get_ids only add offsets */
    *vectors = reinterpret_cast<const float *>(lists->get_codes((size_t)number));
    *ids = lists->get_ids((size_t)number);
    return (int64_t)lists->list_size((size_t)number);
}

int search(const struct faiss_index *index, const float *query, int k, int probes, float *distances, int64_t *ids, char *message) {
    try {
        openblas_set_num_threads(1);
        omp_set_num_threads(1);
        index->ivf->nprobe = (size_t)probes;
        index->ivf->search(1, query, k, distances, ids);
        return 0;
    } catch (const std::exception &e) {
        return say(message, e.what()), -1;
    } catch (...) {
        return say(message, "unknown exception"), -1;
    }
}

void close(struct faiss_index *index) { delete index; }

const struct faiss_shim shim = {FAISS_SHIM_ABI, build, open, list, search, close};

} // namespace

extern "C" __attribute__((visibility("default"))) const struct faiss_shim *pmd_faiss_shim(void) { return &shim; }
