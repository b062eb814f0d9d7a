/* Requests with the verdict that a strict server must give: how many requests are served, and which
 * error ends the connection (0: none). Used whole and byte by byte, with and without sockets.
 * The limits they expect: target 128 bytes, head 1024 bytes, 12 fields, body 64 bytes, 8 chunks. */
#ifndef SUPPORT_HTTP_CASES_H
#define SUPPORT_HTTP_CASES_H

#include <stddef.h>

struct http_case {
    const char *name;
    const char *raw;
    size_t bytes;
    int n_served;
    int error; /* HTTP code, or 0 */
};

#define H     "Host: a\r\n"
#define GET   "GET / HTTP/1.1\r\n" H "\r\n"
#define EVIL  "GET /evil HTTP/1.1\r\n" H "\r\n"
#define PL    "POST /p HTTP/1.1\r\n"
#define PH    PL H
#define CH    PH "Transfer-Encoding: chunked\r\n\r\n"
#define X16   "xxxxxxxxxxxxxxxx"
#define X128  X16 X16 X16 X16 X16 X16 X16 X16
#define X1024 X128 X128 X128 X128 X128 X128 X128 X128
#define C(name, raw, n_served, error)                                                              \
    {                                                                                              \
        name, raw, sizeof(raw) - 1, n_served, error                                                \
    }

static const struct http_case http_cases[] = {
    /* ---- accepted ---- */
    C("plain get", GET, 1, 0),
    C("1.0 without host", "GET / HTTP/1.0\r\n\r\n", 1, 0),
    C("1.0 keep-alive, two",
      "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n", 2, 0),
    C("length body", PH "Content-Length: 5\r\n\r\nhello", 1, 0),
    C("length with zeros", PH "Content-Length: 0005\r\n\r\nhello", 1, 0),
    C("length zero", PH "Content-Length: 0\r\n\r\n", 1, 0),
    C("length body, then get", PH "Content-Length: 5\r\n\r\nhello" GET, 2, 0),
    C("body that looks like a request", PH "Content-Length: 31\r\n\r\n" EVIL GET, 2, 0),
    C("chunked", CH "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 1, 0),
    C("chunked hex digits", CH "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", 1, 0),
    C("chunk size with zeros", CH "0005\r\nhello\r\n000\r\n\r\n", 1, 0),
    C("chunk extension", CH "5;name=value\r\nhello\r\n0\r\n\r\n", 1, 0),
    C("chunk payload of line ends", CH "4\r\n\n\r\r\n\r\n0\r\n\r\n", 1, 0),
    C("trailer is dropped", CH "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n" GET, 2, 0),
    C("chunked, then get", CH "5\r\nhello\r\n0\r\n\r\n" GET, 2, 0),
    C("coding in mixed case", PH "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 1, 0),
    C("empty line before", "\r\n" GET, 1, 0),
    C("empty line between", GET "\r\n\r\n" GET, 2, 0),
    C("empty field value", "GET / HTTP/1.1\r\n" H "X:\r\nY: \r\nZ: z\r\n\r\n", 1, 0),
    C("white space around a value", "GET / HTTP/1.1\r\nHost: \t a \t\r\nX:y\r\n\r\n", 1, 0),
    C("8-bit field value", "GET / HTTP/1.1\r\n" H "X: caf\xc3\xa9\r\n\r\n", 1, 0),
    C("lower-case field names", "GET / HTTP/1.1\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", 1,
      0),
    C("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 1, 0),
    C("ipv6 host", "GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 1, 0),
    C("repeated harmless field", "GET / HTTP/1.1\r\n" H "Accept: a\r\nAccept: b\r\n\r\n", 1, 0),
    C("absolute form", "GET http://b/p?q=1 HTTP/1.1\r\n" H "\r\n", 1, 0),
    C("absolute form without path", "GET http://b HTTP/1.1\r\n" H "\r\n", 1, 0),
    C("options star", "OPTIONS * HTTP/1.1\r\n" H "\r\n", 1, 0),
    C("head", "HEAD / HTTP/1.1\r\n" H "\r\n", 1, 0),
    C("delete", "DELETE / HTTP/1.1\r\n" H "\r\n", 1, 0),
    C("offer of h2c is ignored",
      "GET / HTTP/1.1\r\n" H
      "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n" GET,
      2, 0),
    C("offer of websocket with body is ignored",
      PH "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi" GET, 2, 0),
    C("pipelined", GET GET GET, 3, 0),
    C("nothing behind connection close", "GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n" EVIL, 1,
      0),
    C("close wins over keep-alive",
      "GET / HTTP/1.1\r\n" H "Connection: keep-alive, close\r\n\r\n" EVIL, 1, 0),
    C("expect continue", PH "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", 1, 0),
    C("incomplete head", "GET / HTTP/1.1\r\nHost: a\r\n", 0, 0),
    C("incomplete body", PH "Content-Length: 5\r\n\r\nhel", 0, 0),
    C("incomplete chunk", CH "5\r\nhel", 0, 0),
    /* ---- folded lines ---- */
    C("fold: space", "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", 0, 400),
    C("fold: tab", "GET / HTTP/1.1\r\n" H "X: a\r\n\tb\r\n\r\n", 0, 400),
    C("fold: first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 0, 400),
    C("fold: hides a length (CVE-2024-27982)", PH "X: y\r\n Content-Length: 31\r\n\r\n" EVIL, 0,
      400),
    C("fold: length value", PH "Content-Length:\r\n 5\r\n\r\nhello", 0, 400),
    C("fold: coding", PH "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 0, 400),
    C("fold: white line", "GET / HTTP/1.1\r\n" H " \r\n\r\n" EVIL, 0, 400),
    C("fold: trailer", CH "0\r\nX: a\r\n b\r\n\r\n", 0, 400),
    /* ---- line ends ---- */
    C("bare CR in a value (CVE-2023-30589)", PH "X: a\rContent-Length: 31\r\n\r\n" EVIL, 0, 400),
    C("bare CR in a value", "GET / HTTP/1.1\r\n" H "X: a\rb\r\n\r\n", 0, 400),
    C("bare CR ends the head", "GET / HTTP/1.1\r\n" H "\r\r\n", 0, 400),
    C("two CR", "GET / HTTP/1.1\r\n" H "X: a\r\r\n\r\n", 0, 400),
    C("bare LF", "GET / HTTP/1.1\nHost: a\n\n", 0, 400),
    C("bare LF in fields", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 0, 400),
    C("bare LF ends the head", "GET / HTTP/1.1\r\n" H "\n", 0, 400),
    C("bare LF before the request", "\n" GET, 0, 400),
    C("bare CR before the request", "\r" GET, 0, 400),
    C("empty lines without end", "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n", 0, 400),
    /* ---- framing ---- */
    C("length and coding", PH "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0,
      400),
    C("coding and length", PH "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 0,
      400),
    C("two equal lengths", PH "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 0, 400),
    C("two lengths", PH "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 0, 400),
    C("length list", PH "Content-Length: 5, 5\r\n\r\nhello", 0, 400),
    C("length with plus", PH "Content-Length: +5\r\n\r\nhello", 0, 400),
    C("negative length", PH "Content-Length: -5\r\n\r\nhello", 0, 400),
    C("hex length", PH "Content-Length: 0x5\r\n\r\nhello", 0, 400),
    C("empty length", PH "Content-Length:\r\n\r\n", 0, 400),
    C("length of two words", PH "Content-Length: 5 5\r\n\r\nhello", 0, 400),
    C("length with letter", PH "Content-Length: 5a\r\n\r\nhello", 0, 400),
    C("length that overflows", PH "Content-Length: 99999999999999999999999\r\n\r\n", 0, 400),
    C("length 2^64 + 5", PH "Content-Length: 18446744073709551621\r\n\r\nhello", 0, 400),
    C("length 2^64 - 1", PH "Content-Length: 18446744073709551615\r\n\r\nhello", 0, 413),
    C("space before colon", PH "Content-Length : 5\r\n\r\nhello", 0, 400),
    C("space before colon of coding", PH "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 0, 400),
    C("two codings", PH "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      0, 400),
    C("two codings, one unknown",
      PH "Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400),
    C("chunked twice", PH "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 0, 400),
    C("chunked not last", PH "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 0, 400),
    C("xchunked", PH "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0, 400),
    C("empty coding", PH "Transfer-Encoding:\r\n\r\n", 0, 400),
    C("coding on 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400),
    C("gzip", PH "Transfer-Encoding: gzip\r\n\r\n", 0, 501),
    C("gzip, chunked", PH "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, 501),
    C("identity", PH "Transfer-Encoding: identity\r\n\r\n", 0, 501),
    /* ---- chunks ---- */
    C("chunk: wrong terminator", CH "5\r\nhelloXX0\r\n\r\n", 0, 400),
    C("chunk: LF terminator", CH "5\r\nhello\n0\r\n\r\n", 0, 400),
    C("chunk: longer than its size", CH "5\r\nhello!\r\n0\r\n\r\n", 0, 400),
    C("chunk: no size", CH "\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: no digit", CH "g\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: minus", CH "-5\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: 0x", CH "0x5\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: space in front", CH " 5\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: space behind", CH "5 \r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: bare LF", CH "5\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: bare CR", CH "5\rhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: bare LF in extension", CH "5;a\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: bare CR in extension", CH "5;a\rb\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: NUL in extension", CH "5;a\0b\r\nhello\r\n0\r\n\r\n", 0, 400),
    C("chunk: end without CR", CH "0\r\n\n", 0, 400),
    C("chunk: huge", CH "FFFFFFFFFFFFFFFF\r\nhello", 0, 413),
    C("chunk: size overflows", CH "FFFFFFFFFFFFFFFFF\r\nhello", 0, 400),
    C("chunk: sum over the limit", CH "20\r\n" X16 X16 "\r\n21\r\n" X16 X16 "x\r\n0\r\n\r\n", 0,
      413),
    C("chunk: too many",
      CH "1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r"
         "\n0\r\n\r\n",
      0, 413),
    C("chunk: extension without end", CH "5;" X1024 X128, 0, 413),
    C("chunk: trailers without end", CH "0\r\nX: " X1024 X128, 0, 413),
    C("chunk: length in a trailer", CH "0\r\nContent-Length: 31\r\n\r\n" EVIL, 0, 400),
    C("chunk: coding in the second trailer", CH "0\r\nX: 1\r\nTransfer-Encoding:chunked\r\n\r\n", 0,
      400),
    /* ---- host ---- */
    C("no host", "GET / HTTP/1.1\r\n\r\n", 0, 400),
    C("two hosts", "GET / HTTP/1.1\r\n" H H "\r\n", 0, 400),
    C("two hosts on 1.0", "GET / HTTP/1.0\r\n" H H "\r\n", 0, 400),
    C("host with path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 0, 400),
    C("host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 0, 400),
    C("host with user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 0, 400),
    C("host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 0, 400),
    /* ---- field names and bytes ---- */
    C("empty field name", "GET / HTTP/1.1\r\n" H ": x\r\n\r\n", 0, 400),
    C("line without colon", "GET / HTTP/1.1\r\n" H "Foo\r\n\r\n", 0, 400),
    C("bracket in name", "GET / HTTP/1.1\r\n" H "F(o: x\r\n\r\n", 0, 400),
    C("space in name", "GET / HTTP/1.1\r\n" H "F o: x\r\n\r\n", 0, 400),
    C("8-bit name", "GET / HTTP/1.1\r\n" H "F\xc3\xa9: x\r\n\r\n", 0, 400),
    C("NUL in value", "GET / HTTP/1.1\r\n" H "X: a\0b\r\n\r\n", 0, 400),
    C("NUL in name", "GET / HTTP/1.1\r\n" H "X\0Y: a\r\n\r\n", 0, 400),
    C("NUL in target", "GET /a\0b HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("control byte in value", "GET / HTTP/1.1\r\n" H "X: a\x01\r\n\r\n", 0, 400),
    C("DEL in value", "GET / HTTP/1.1\r\n" H "X: a\x7f\r\n\r\n", 0, 400),
    C("TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, 400),
    /* ---- request line ---- */
    C("0.9", "GET /\r\n\r\n", 0, 400),
    C("2.0", "GET / HTTP/2.0\r\n" H "\r\n", 0, 505),
    C("h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 505),
    C("1.2", "GET / HTTP/1.2\r\n" H "\r\n", 0, 505),
    C("9.9", "GET / HTTP/9.9\r\n" H "\r\n", 0, 505),
    C("0.9 spelled out", "GET / HTTP/0.9\r\n" H "\r\n", 0, 505),
    C("long version", "GET / HTTP/1.10\r\n" H "\r\n", 0, 400),
    C("version in lower case", "GET / http/1.1\r\n" H "\r\n", 0, 400),
    C("other protocol", "GET / ICY/1.1\r\n" H "\r\n", 0, 400),
    C("space behind version", "GET / HTTP/1.1 \r\n" H "\r\n", 0, 400),
    C("two spaces", "GET  / HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("space in target", "GET /a b HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("tab as separator", "GET\t/ HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("space in front", " GET / HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("no target", "GET HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("relative target", "GET a HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("star for get", "GET * HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("fragment", "GET /a#b HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("8-bit target", "GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("authority missing", "GET http:///x HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("ftp target", "GET ftp://a/x HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("unknown method", "FOO / HTTP/1.1\r\n" H "\r\n", 0, 501),
    C("method in lower case", "get / HTTP/1.1\r\n" H "\r\n", 0, 501),
    C("trace", "TRACE / HTTP/1.1\r\n" H "\r\n", 0, 501),
    C("connect", "CONNECT a:80 HTTP/1.1\r\n" H "\r\n", 0, 501),
    C("method that is no token", "G<T / HTTP/1.1\r\n" H "\r\n", 0, 400),
    C("unknown expectation", PH "Expect: magic\r\n\r\n", 0, 417),
    /* ---- limits ---- */
    C("target too long", "GET /" X128 " HTTP/1.1\r\n" H "\r\n", 0, 414),
    C("target without end", "GET /" X1024, 0, 414),
    C("head too large", "GET / HTTP/1.1\r\n" H "X: " X1024 "\r\n\r\n", 0, 431),
    C("twelve fields",
      "GET / HTTP/1.1\r\n" H
      "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\nj:\r\nk:\r\n\r\n",
      1, 0),
    C("thirteen fields",
      "GET / HTTP/1.1\r\n" H
      "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\nf:\r\ng:\r\nh:\r\ni:\r\nj:\r\nk:\r\nl:\r\n\r\n",
      0, 431),
    C("body at the limit", PH "Content-Length: 64\r\n\r\n" X16 X16 X16 X16, 1, 0),
    C("body over the limit", PH "Content-Length: 65\r\n\r\n" X16 X16 X16 X16 "x", 0, 413),
    C("good, then bad", GET PH "Content-Length: x\r\n\r\n" EVIL, 1, 400),
};

enum { N_HTTP_CASES = sizeof(http_cases) / sizeof(http_cases[0]) };

#undef H
#undef GET
#undef EVIL
#undef PL
#undef PH
#undef CH
#undef X16
#undef X128
#undef X1024
#undef C

#endif
