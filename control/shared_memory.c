/* SPDX-License-Identifier: Apache-2.0 */
#include "control/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "plan.h"

/* A zeroed memfd of a fixed size, mapped. Returns the descriptor or -errno. */
static int memory_make(const char *name, size_t bytes, void **map)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int err;
    if (ftruncate(fd, (off_t)bytes) || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        err = -errno;
        goto err_fd;
    }
    *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*map == MAP_FAILED) {
        err = -errno;
        goto err_fd;
    }
    return fd;
err_fd:
    close(fd);
    return err;
}

static void memory_free(int fd, void *map, size_t bytes)
{
    munmap(map, bytes);
    close(fd);
}

int shared_memory_open(struct shared_memory *memory, uint32_t rings)
{
    int err;
    memset(memory, 0, sizeof(*memory));
    memory->rings = rings;
    memory->log_bytes = offsetof(struct log_page, ring) + rings * sizeof(struct log_ring);
    err = memory->counters_fd =
        memory_make("fairlead-counters", sizeof(*memory->counters), (void **)&memory->counters);
    if (err < 0)
        return err;
    err = memory->log_fd = memory_make("fairlead-log", memory->log_bytes, (void **)&memory->log);
    if (err < 0)
        goto err_counters;
    err = memory->epochs_fd =
        memory_make("fairlead-epochs", sizeof(*memory->epochs), (void **)&memory->epochs);
    if (err < 0)
        goto err_log;
    memory->counters->magic = SHARED_MAGIC;
    memory->counters->version = SHARED_VERSION;
    memory->counters->rings = rings;
    memory->log->magic = SHARED_MAGIC;
    memory->log->version = SHARED_VERSION;
    return 0;
err_log:
    memory_free(memory->log_fd, memory->log, memory->log_bytes);
err_counters:
    memory_free(memory->counters_fd, memory->counters, sizeof(*memory->counters));
    return err;
}

/* Only a size that nobody can change any more is one. */
static int memory_take(int fd, size_t bytes, void **map)
{
    const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &st))
        return -errno;
    if ((seals & wanted) != wanted || st.st_size != (off_t)bytes)
        return -EPROTO;
    *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return *map == MAP_FAILED ? -errno : 0;
}

int shared_memory_adopt(struct shared_memory *memory, uint32_t rings, int counters_fd, int log_fd,
                        int epochs_fd)
{
    memset(memory, 0, sizeof(*memory));
    *memory = (struct shared_memory){
        .counters_fd = counters_fd,
        .log_fd = log_fd,
        .epochs_fd = epochs_fd,
        .rings = rings,
        .log_bytes = offsetof(struct log_page, ring) + rings * sizeof(struct log_ring),
    };
    int err = memory_take(counters_fd, sizeof(*memory->counters), (void **)&memory->counters);
    if (err)
        return err;
    err = memory_take(log_fd, memory->log_bytes, (void **)&memory->log);
    if (err)
        goto err_counters;
    err = memory_take(epochs_fd, sizeof(*memory->epochs), (void **)&memory->epochs);
    if (err)
        goto err_log;
    atomic_store(&memory->log->trace_on, 0); /* who listened went with the control before */
    return 0;
err_log:
    munmap(memory->log, memory->log_bytes);
err_counters:
    munmap(memory->counters, sizeof(*memory->counters));
    return err;
}

bool shared_memory_readers_rest(const struct shared_memory *memory, uint64_t wait_ms)
{
    enum { LOOKS_A_MS = 200 };
    const struct timespec pause = {0, 1000000};
    uint32_t ring = 0;
    for (uint64_t ms = 0; ring < memory->rings && ms <= wait_ms; ms++) {
        for (int i = 0; i < LOOKS_A_MS && ring < memory->rings; i++)
            ring += atomic_load(&memory->epochs->ring[ring].reading) == 0;
        if (ring < memory->rings)
            nanosleep(&pause, NULL);
    }
    return ring == memory->rings;
}

void shared_memory_close(struct shared_memory *memory)
{
    memory_free(memory->epochs_fd, memory->epochs, sizeof(*memory->epochs));
    memory_free(memory->log_fd, memory->log, memory->log_bytes);
    memory_free(memory->counters_fd, memory->counters, sizeof(*memory->counters));
}

void shared_memory_reset_rings(struct shared_memory *memory)
{
    static const char *const kinds[COUNTERS_COUNT] = {
#define COUNTER(symbol, name, kind, unit, text) [CTR_##symbol] = #kind,
#include "counters.def"
#undef COUNTER
    };
    static const char *const target_kinds[TARGET_COUNTERS_COUNT] = {
#define TARGET(symbol, name, kind, unit, text) [TARGET_##symbol] = #kind,
#include "targets.def"
#undef TARGET
    };
    for (uint32_t ring = 0; ring < memory->rings; ring++) {
        for (int i = 0; i < COUNTERS_COUNT; i++)
            if (kinds[i][0] == 'g')
                atomic_store_explicit(&memory->counters->ring[ring].counter[i], 0, memory_order_relaxed);
        for (unsigned i = 0; i < TARGET_SLOTS; i++)
            for (int k = 0; k < TARGET_COUNTERS_COUNT; k++)
                if (target_kinds[k][0] == 'g')
                    atomic_store_explicit(&memory->counters->ring[ring].target[i].value[k], 0,
                                          memory_order_relaxed);
        atomic_store(&memory->epochs->ring[ring].reading, 0);
    }
}

static int write_all(int fd, const void *data, uint64_t len)
{
    for (uint64_t at = 0; at < len;) {
        ssize_t n = write(fd, (const char *)data + at, len - at);
        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

int shared_memory_seal_plan(const struct plan *plan)
{
    int fd = memfd_create("fairlead-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int err = write_all(fd, plan, plan->bytes);
    if (!err && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL))
        err = -errno;
    if (err)
        close(fd);
    return err ? err : fd;
}

uint64_t shared_memory_sum(const struct shared_memory *memory, enum counter_id id)
{
    uint64_t sum = 0;
    for (uint32_t ring = 0; ring < memory->rings; ring++)
        sum += atomic_load_explicit(&memory->counters->ring[ring].counter[id], memory_order_relaxed);
    return sum;
}

bool shared_memory_target(const struct shared_memory *memory, uint32_t id, uint16_t generation,
                          uint64_t out[TARGET_COUNTERS_COUNT])
{
    uint64_t key = target_key(id, generation);
    bool found = false;
    memset(out, 0, TARGET_COUNTERS_COUNT * sizeof(out[0]));
    for (uint32_t ring = 0; ring < memory->rings; ring++) {
        const struct target_slot *slot = target_find(&memory->counters->ring[ring], key);
        for (int i = 0; slot && i < TARGET_COUNTERS_COUNT; i++)
            out[i] += atomic_load_explicit(&slot->value[i], memory_order_relaxed);
        found = found || slot;
    }
    return found;
}
