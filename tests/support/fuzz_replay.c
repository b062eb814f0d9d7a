/* Feeds every file of the directories given as arguments to LLVMFuzzerTestOneInput: the corpus as a
 * regression test in builds without libFuzzer. Fails when a directory holds no file. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        return -1;
    static uint8_t data[1 << 20];
    size_t size = fread(data, 1, sizeof(data), f);
    fclose(f);
    uint8_t *exact = malloc(size > 0 ? size : 1); /* exact size, so that ASan sees overreads */
    if (exact == NULL)
        return -1;
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (dir == NULL) {
            fprintf(stderr, "%s: no corpus\n", argv[i]);
            return 1;
        }
        unsigned n_files = 0;
        for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
            char path[4096];
            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
            if (replay_file(path) == 0)
                n_files++;
        }
        closedir(dir);
        printf("%s: %u inputs replayed\n", argv[i], n_files);
        if (n_files == 0)
            return 1;
    }
    return 0;
}
