/* SPDX-License-Identifier: Apache-2.0 */
/* Macros of libraries whose headers cppcheck does not read. */
#define bpf_object__for_each_map(map, object) while ((map = bpf_object__next_map(object, map)) != NULL)
#define bpf_object__for_each_program(program, object)                                                        \
    while ((program = bpf_object__next_program(object, program)) != NULL)
#define LIBBPF_OPTS(type, name, ...) struct type name = {__VA_ARGS__}
#define json_array_foreach(array, i, v)                                                                      \
    for (i = 0; i < json_array_size(array) && (v = json_array_get(array, i)); i++)
#define json_object_foreach(object, k, v)                                                                    \
    for (k = json_first_key(object); k && (v = json_object_get(object, k)); k = json_next_key(object, k))
