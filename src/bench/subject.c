#include "bench/subject.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "bench/random_checkpoint.h"

/* ---- the checkpoint ---- */

static int make_random(const struct sweep *s, const char *name, bool hollow, struct checkpoint_place *p, struct err *err) {
    const struct known_model *known = known_model_find(name);
    char done[PATH_MAX + 16];
    if (!known) return err_set(err, ERR_ARGUMENT, "no shape is known for '%s'", name);
    const struct shape *shape = shape_find(known->size);
    bool keep = s->weights_folder && !hollow;
    if (keep) {
        if (snprintf(p->folder, sizeof p->folder, "%s/random-%s", s->weights_folder, known->name) >= (int)sizeof p->folder)
            return err_set(err, ERR_ARGUMENT, "%s: the path is too long", s->weights_folder);
        snprintf(done, sizeof done, "%s/complete", p->folder);
        if (file_exists(done)) return 0;
        int r = file_make_folders(p->folder, err);
        if (!r) r = random_checkpoint_write(p->folder, shape, known->format, false, err);
        return r ? r : file_replace(done, "", 0, err);
    }
    const char *base = getenv("TMPDIR");
    snprintf(p->folder, sizeof p->folder, "%s/pmd-bench-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(p->folder)) return err_set(err, ERR_IO, "%s: cannot make a temporary folder: %s", p->folder, strerror(errno));
    p->temporary = true;
    return random_checkpoint_write(p->folder, shape, known->format, hollow, err);
}

int checkpoint_place_find(const struct sweep *s, const char *name, bool hollow, struct checkpoint_place *out, struct err *err) {
    *out = (struct checkpoint_place){0};
    int r = s->random_weights ? make_random(s, name, hollow, out, err) : s->find(s->user, name, out->folder, err);
    if (r) checkpoint_place_leave(out);
    return r;
}

void checkpoint_place_leave(struct checkpoint_place *p) {
    if (p->temporary) random_checkpoint_remove(p->folder);
    p->temporary = false;
}

int subject_facts(const struct sweep *s, const char *name, struct model_facts *out, struct err *err) {
    struct checkpoint_place p;
    int r = checkpoint_place_find(s, name, true, &p, err);
    if (r) return r;
    r = model_facts_read(p.folder, &s->load, out, err);
    checkpoint_place_leave(&p);
    return r;
}

/* ---- loading ---- */

/* Tokens of keys and values that fit beside the weights, and of these as many as the cells need. */
static int64_t choose_kv(const struct sweep *s, const struct qvl_plan *p, const struct cell *cells, size_t count) {
    size_t taken = p->work_bytes + p->weight_bytes, room = p->available_bytes > taken ? p->available_bytes - taken : 0;
    int64_t fit = (int64_t)(room / 20 * 19 / p->kv_bytes_per_token), need = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t tokens = cell_kv_tokens(&cells[i], s->how.answer_tokens);
        if (tokens <= fit && tokens > need) need = tokens;
    }
    return need > 4096 ? need : 4096;
}

/* Touches every weight and lets the working memory grow; on a GPU to that of the largest pass, whose kernels are then loaded. */
static int warm_up(const struct subject *s, int64_t kv_tokens, struct err *err) {
    struct qvl_info info;
    qvl_model_info(s->m, &info);
    int64_t tokens = strcmp(info.device, "cpu") ? 8192 : 64, most = (kv_tokens < info.context ? kv_tokens : info.context) - 64;
    if (tokens > most) tokens = most > 64 ? most : 64;
    struct qvl_session *session;
    struct qvl_result result;
    int pictures;
    const struct cell text = {.task = TASK_TEXT};
    int r = prompt_maker_make(&s->maker, &text, tokens, 1, tokens, 1, &session, &pictures, err);
    if (r) return r;
    const struct qvl_generate g = {.max_tokens = 4, .ignore_end = true, .no_append = true};
    r = qvl_generate(session, &g, &result, err);
    if (!r) qvl_result_free(&result);
    qvl_session_free(session);
    return r;
}

static int load(const struct sweep *s, const char *folder, const struct cell *cells, size_t count, struct subject *out,
                int64_t *kv_tokens, struct err *err) {
    struct qvl_options o = s->load;
    struct qvl_plan plan;
    struct qvl_info info;
    int r = qvl_plan_load(folder, &o, &plan, err);
    if (r) return r;
    *kv_tokens = choose_kv(s, &plan, cells, count);
    o.kv_bytes = (size_t)*kv_tokens * plan.kv_bytes_per_token + (plan.kv_bytes_per_token << 6); /* and a page or two */
    out->kv_token_bytes = plan.kv_bytes_per_token;
    if ((r = qvl_load(folder, &o, &out->m, err))) return r;
    qvl_model_info(out->m, &info);
    out->decode_bytes = info.decode_bytes;
    return 0;
}

int subject_open(const struct sweep *s, const char *name, const struct cell *cells, size_t count, struct subject *out,
                 int64_t *kv_tokens, struct err *err) {
    struct checkpoint_place p;
    const struct frame_files *frames = out->maker.frames;
    int r = checkpoint_place_find(s, name, false, &p, err);
    if (r) return r;
    r = load(s, p.folder, cells, count, out, kv_tokens, err);
    checkpoint_place_leave(&p); /* the files stay mapped, and nothing stays behind however this process ends */
    if (!r) r = prompt_maker_open(&out->maker, out->m, frames, err);
    out->maker.frames = frames;
    if (!r) r = warm_up(out, *kv_tokens, err);
    if (r) subject_close(out);
    return r;
}

void subject_close(struct subject *s) {
    const struct frame_files *frames = s->maker.frames;
    prompt_maker_close(&s->maker);
    s->maker.frames = frames;
    qvl_unload(s->m);
    s->m = NULL;
}
