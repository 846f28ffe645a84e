/* SPDX-License-Identifier: Apache-2.0 */
#include "control/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
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
    for (uint32_t ring = 0; ring < memory->rings; ring++) {
        for (int i = 0; i < COUNTERS_COUNT; i++)
            if (kinds[i][0] == 'g')
                atomic_store_explicit(&memory->counters->ring[ring].counter[i], 0, memory_order_relaxed);
        atomic_store(&memory->epochs->ring[ring].reading, 0);
    }
}

int shared_memory_seal_plan(const struct plan *plan)
{
    int fd = memfd_create("fairlead-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, plan, sizeof(*plan));
    int err = n < 0 ? -errno : n != (ssize_t)sizeof(*plan) ? -ENOSPC : 0;
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
