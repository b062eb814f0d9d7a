# Target `llhttp`: a system libllhttp 9 or later where pkg-config finds one (strict by default), else
# Debian's C sources of llhttp 8 (package node-llhttp) in strict mode. Their warnings are not ours.
pkg_check_modules(LLHTTP QUIET IMPORTED_TARGET libllhttp>=9)
if(LLHTTP_FOUND)
    add_library(llhttp INTERFACE)
    target_link_libraries(llhttp INTERFACE PkgConfig::LLHTTP)
    message(STATUS "dynd: llhttp ${LLHTTP_VERSION} of the system")
else()
    set(DYND_LLHTTP_DIR /usr/share/llhttp CACHE PATH "Folder with llhttp's api.c, http.c, llhttp.c")
    find_path(DYND_LLHTTP_INCLUDE llhttp.h
              PATHS /usr/share/include/llhttp ${DYND_LLHTTP_DIR}/../include REQUIRED)
    if(NOT EXISTS ${DYND_LLHTTP_DIR}/llhttp.c)
        message(FATAL_ERROR "neither libllhttp >= 9 nor ${DYND_LLHTTP_DIR}/llhttp.c was found")
    endif()
    add_library(llhttp STATIC ${DYND_LLHTTP_DIR}/api.c ${DYND_LLHTTP_DIR}/http.c
                              ${DYND_LLHTTP_DIR}/llhttp.c)
    target_compile_definitions(llhttp PUBLIC LLHTTP_STRICT_MODE=1)
    target_compile_options(llhttp PRIVATE -w)
    target_include_directories(llhttp SYSTEM PUBLIC ${DYND_LLHTTP_INCLUDE})
    message(STATUS "dynd: llhttp from ${DYND_LLHTTP_DIR}")
endif()
