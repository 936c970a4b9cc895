/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Text cleaning case by case, and a tokenizer on a model of a few pieces that the test writes: special tokens in user text,
 * truncation, damaged files. Whole prompts against the original's libraries are the parity tests' matter.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "nets/tokenizer.h"
#include "test.h"

/* ---- cleaning ------------------------------------------------------------------------------------------------------ */

static void check(const char *text, const char *wanted)
{
    char *clean;

    REQUIRE_OK(avt_text_clean(&clean, text, test_log()));
    if (strcmp(clean, wanted))
        fail_msg("\"%s\": got \"%s\", wanted \"%s\"", text, clean, wanted);
    avt_free(clean);
}

static void plain_text_stays(void **state)
{
    (void)state;
    check("", "");
    check("A man speaks to the camera.", "A man speaks to the camera.");
    check("100 % & more; a <b> tag, \"quotes\"", "100 % & more; a <b> tag, \"quotes\"");
    check("\u4e00\u4e2a\u5973\u4eba\u3002", "\u4e00\u4e2a\u5973\u4eba\u3002");
    check("x\u200by \U0001F600\u200D\U0001F680", "x\u200by \U0001F600\u200D\U0001F680");
}

static void white_space(void **state)
{
    (void)state;
    check(" \t \r\n ", "");
    check("  a \t\n\r\n b\u00a0\u2003\u3000c\u2028d\u1680", "a b c d");
    check("a\x0b" "b\x0c" "c", "ab c");                             // a vertical tab is a control that vanishes
}

static void entities(void **state)
{
    (void)state;
    check("&lt;b&gt; &amp; &eacute;&ccaron;&hellip;", "<b> & \u00e9\u010d\u2026");
    check("&amp;amp;amp;amp;lt;", "<");                             // repeated until nothing changes
    check("<&amp;amp;amp;amp;lt;", "<&amp;amp;lt;");                // after a '<' only twice
    check("a < b\n&amp;amp;amp;amp;", "a < b &amp;amp;");           // and in the lines that follow
    check("&#65;&#x42;&#X43;&#68", "ABCD");
    check("&#0;&#xD800;&#x110000;&#99999999999999999999;", "\ufffd\ufffd\ufffd\ufffd");
    check("&#128;&#150;&#1;&#xFDD0;", "\u20ac\u2013");
    check("&notit; &not;in &copycat &nbsp", "\u00acit; \u00acin \u00a9cat");
    check("&unknown; &; &#; &#x; &", "&unknown; &; &#; &#x; &");
    check("P&EACUTE;REZ STRA&SZLIG;E", "P\u00c9REZ STRASSE");
    check("&Eacute; &AMP; &GT;", "\u00c9 & >");
}

static void characters(void **state)
{
    (void)state;
    check("\u201ccurly\u201d \u2018single\u2019 \u201elow\u201f", "\"curly\" 'single' \"low\"");
    check("<\u201d>&ldquo;", "<\">\u201c");                         // an entity unescaped at the end stays curly
    check("\ufb01ne \ufb03 \u0149 \u01c4 \u0133", "fine ffi 'n D\u017d ij");
    check("\uff26\uff55\uff4c\uff4c\uff0c\u3000\uff76\uff9e", "Full, \u30ac");
    check("cafe\u0301 A\u030a \u1112\u1161\u11ab", "caf\u00e9 \u00c5 \ud55c");
    check("q\u0307\u0323", "q\u0323\u0307");                        // canonical order
    check("\x1b[1;31mred\x1b[0m \x07" "bell \ufeff\u206a\ufffc", "red bell");
    check("\xc2\x85 dots\xc2\x93", "\u2026 dots\"");                      // Windows-1252 behind a C1 control
}

static void not_utf8(void **state)
{
    static const char *const bad[] = { "ab\xff", "\xc3", "\xe2\x82", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80", "caf\xe9 " };
    char *clean;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        REQUIRE(avt_text_clean(&clean, bad[i], test_log()) == AVT_ERR(EINVAL));
        REQUIRE(!clean && strstr(test_log_text(), "is not UTF-8"));
    }
    REQUIRE(avt_text_clean(&clean, bad[6], test_log()) == AVT_ERR(EINVAL) && strstr(test_log_text(), "byte 3 "));
}

static void cleaning_without_memory(void **state)
{
    const int64_t before = avt_mem_bytes(MEM_NB);
    char *clean;
    int n = 0, ret;

    (void)state;
    do {
        avt_mem_fail_at(++n);
        ret = avt_text_clean(&clean, "&amp;quot;\ufb01\u201c\n e\u0301 <", NULL);
        if (ret < 0)
            REQUIRE(ret == AVT_ERR(ENOMEM) && !clean);
        else
            avt_free(clean);
        REQUIRE(avt_mem_bytes(MEM_NB) == before);
    } while (ret < 0 && n < 1000);
    avt_mem_fail_at(0);
    REQUIRE(n > 5 && n < 1000);
}

/* ---- a model ------------------------------------------------------------------------------------------------------- */

enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };
enum { PAD, EOS, BOS, UNK, MARK, LETTER_A, LETTER_B, WORD_AB, LESS, MORE, SLASH, LETTER_S, EXTRA_0, EXTRA_1, NB_PIECES };

static const struct { const char *text; int type; float score; } pieces[NB_PIECES] = {
    { "<pad>", CONTROL, 0 }, { "</s>", CONTROL, 0 }, { "<s>", USER_DEFINED, 0 }, { "<unk>", UNKNOWN, 0 },
    { "\u2581", NORMAL, -3 }, { "a", NORMAL, -4 }, { "b", NORMAL, -4 }, { "\u2581ab", NORMAL, -5 },
    { "<", NORMAL, -6 }, { ">", NORMAL, -6 }, { "/", NORMAL, -6 }, { "s", NORMAL, -6 },
    { "<extra_id_0>", USER_DEFINED, 0 }, { "\u2581<extra_id_1>", NORMAL, -1 },
};

static size_t write_model(uint8_t *out)
{
    uint8_t *p = out;

    for (int i = 0; i < NB_PIECES; i++) {
        const size_t n = strlen(pieces[i].text);

        *p++ = 1 << 3 | 2;                                          // pieces
        *p++ = (uint8_t)(2 + n + 5 + 2);
        *p++ = 1 << 3 | 2;                                          // piece
        *p++ = (uint8_t)n;
        memcpy(p, pieces[i].text, n);
        p += n;
        *p++ = 2 << 3 | 5;                                          // score
        memcpy(p, &pieces[i].score, 4);
        p += 4;
        *p++ = 3 << 3;                                              // type
        *p++ = (uint8_t)pieces[i].type;
    }
    return (size_t)(p - out);
}

static int open_bytes(Tokenizer **t, const uint8_t *model, size_t size)
{
    char path[] = "/tmp/avatar-test-XXXXXX";
    const int fd = mkstemp(path);
    int ret;

    REQUIRE(fd >= 0 && write(fd, model, size) == (ssize_t)size);
    close(fd);
    ret = avt_tokenizer_open(t, path, test_log());
    unlink(path);
    return ret;
}

static Tokenizer *open_small(void)
{
    uint8_t model[1024];
    Tokenizer *t;

    REQUIRE_OK(open_bytes(&t, model, write_model(model)));
    return t;
}

#define CHECK_IDS(t, text, ...)                                                                       \
    check_ids(t, text, (const int32_t[]){ __VA_ARGS__ }, (int)(sizeof((const int32_t[]){ __VA_ARGS__ }) / sizeof(int32_t)))

static void check_ids(const Tokenizer *t, const char *text, const int32_t *wanted, int nb_wanted)
{
    int32_t ids[64];
    const int nb = avt_tokenizer_encode(t, ids, 64, text, NULL);

    if (nb != nb_wanted || memcmp(ids, wanted, sizeof(*ids) * (size_t)nb))
        fail_msg("\"%s\": %d ids, wanted %d, or others", text, nb, nb_wanted);
}

static void ids(void **state)
{
    Tokenizer *t = open_small();

    (void)state;
    REQUIRE(avt_tokenizer_nb_pieces(t) == NB_PIECES);
    CHECK_IDS(t, "", EOS);
    CHECK_IDS(t, "ab", WORD_AB, EOS);
    CHECK_IDS(t, "ba ab", MARK, LETTER_B, LETTER_A, WORD_AB, EOS);
    CHECK_IDS(t, "axxb", MARK, LETTER_A, UNK, LETTER_B, EOS);       // unknown characters in a row are one
    avt_tokenizer_close(&t);
    avt_tokenizer_close(&t);
    REQUIRE(!t);
}

/* Whatever types the file gives them, names of special tokens in a prompt are plain letters. */
static void special_names_are_text(void **state)
{
    static const char *const prompts[] = {
        "</s>", "<pad> <s>", "<unk>", "<extra_id_0>", "a<extra_id_0>b", "<extra_id_1>", "<0x41>",
    };
    Tokenizer *t = open_small();
    int32_t ids[64];

    (void)state;
    CHECK_IDS(t, "<s>", MARK, LESS, LETTER_S, MORE, EOS);
    CHECK_IDS(t, "</s>", MARK, LESS, SLASH, LETTER_S, MORE, EOS);
    for (size_t p = 0; p < sizeof(prompts) / sizeof(prompts[0]); p++) {
        const int nb = avt_tokenizer_encode(t, ids, 64, prompts[p], NULL);

        REQUIRE(nb > 1 && ids[nb - 1] == EOS);
        for (int i = 0; i < nb - 1; i++)
            REQUIRE(ids[i] >= UNK && ids[i] != EXTRA_0 && ids[i] != EXTRA_1);
    }
    avt_tokenizer_close(&t);
}

static void truncation(void **state)
{
    Tokenizer *t = open_small();
    char text[401] = "";
    int32_t ids[512];
    int64_t left_out = -1;

    (void)state;
    memset(text, 'b', 400);
    REQUIRE(avt_tokenizer_encode(t, ids, 512, text, &left_out) == 402 && !left_out);      // mark, 400 letters, </s>
    ids[128] = -7;
    REQUIRE(avt_tokenizer_encode(t, ids, 128, text, &left_out) == 128 && left_out == 401 - 127);
    REQUIRE(ids[126] == LETTER_B && ids[127] == EOS && ids[128] == -7);
    REQUIRE(avt_tokenizer_encode(t, ids, 1, text, NULL) == 1 && ids[0] == EOS);
    REQUIRE(avt_tokenizer_encode(t, ids, 0, text, NULL) == AVT_ERR(EINVAL));
    avt_tokenizer_close(&t);
}

/* Putting marks into order takes the square of their number: 59 s for 90000 of them. */
static void combining_marks(void **state)
{
    const struct {
        const char *mark[2];            // by turns: in an order that must be changed
        int nb, ret;
    } cases[] = { { { "\xcc\x81", "\xcc\xa7" }, 200, 0 }, { { "\xcc\x81", "\xcc\xa7" }, 90000, AVT_ERR(EINVAL) },
                  { { "&#x301;", "&#x327;" }, 90000, AVT_ERR(EINVAL) } };
    const int64_t before = avt_mem_bytes(MEM_NB);
    char *text = malloc(90000 * 8), *out;

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const clock_t start = clock();
        char *p = text;

        *p++ = 'a';
        for (int i = 0; i < cases[k].nb; i++)
            p = stpcpy(p, cases[k].mark[i & 1]);
        REQUIRE(avt_text_clean(&out, text, test_log()) == cases[k].ret);
        REQUIRE(cases[k].ret ? !out && strstr(test_log_text(), "combining marks") != NULL : out != NULL);
        REQUIRE(clock() - start < 5 * CLOCKS_PER_SEC);
        avt_free(out);
    }
    REQUIRE(avt_mem_bytes(MEM_NB) == before);
    free(text);
}

static void refused_files(void **state)
{
    uint8_t model[1024];
    const size_t size = write_model(model);
    Tokenizer *t = (Tokenizer *)1;

    (void)state;
    REQUIRE(avt_tokenizer_open(&t, "/nonexistent/spiece.model", test_log()) == AVT_ERR(ENOENT) && !t);
    REQUIRE(strstr(test_log_text(), "/nonexistent/spiece.model") != NULL);
    REQUIRE(avt_tokenizer_open(&t, "/tmp", test_log()) == AVT_ERR(EISDIR) && strstr(test_log_text(), "is a folder"));
    REQUIRE(avt_tokenizer_open(&t, "/dev/zero", test_log()) == AVT_ERR(EINVAL) && strstr(test_log_text(), "not a regular file"));
    REQUIRE(open_bytes(&t, model, 0) == AVT_INVALID);
    REQUIRE(open_bytes(&t, (const uint8_t *)"{ \"model\": 1 }", 14) == AVT_INVALID);
    REQUIRE(open_bytes(&t, (const uint8_t *)"\x0a\x06\x2a\x02ok\x08\x01", 8) == AVT_INVALID);     // a piece whose text is a number
    for (size_t cut = 1; cut < size; cut++) {                       // every cut but those between two pieces, and there no </s>
        const int ret = open_bytes(&t, model, cut);

        if (ret == 0)
            REQUIRE(cut > 30);                                      // whole pieces, with <unk> and </s> among them
        else
            REQUIRE(ret == AVT_INVALID && !t && strstr(test_log_text(), "tokenizer: "));
        avt_tokenizer_close(&t);
    }
}

/* One byte changed: refused or not, nothing breaks. */
static void damaged_files(void **state)
{
    uint8_t model[1024];
    const size_t size = write_model(model);
    const int64_t before = avt_mem_bytes(MEM_NB);
    int32_t ids[64];

    (void)state;
    for (size_t i = 0; i < size; i++) {
        const uint8_t old = model[i];
        Tokenizer *t;

        model[i] = (uint8_t)(old ^ (1 << i % 8));
        if (open_bytes(&t, model, size) == 0)
            REQUIRE(avt_tokenizer_encode(t, ids, 64, "ab </s> ba", NULL) >= 1);
        avt_tokenizer_close(&t);
        model[i] = old;
    }
    REQUIRE(avt_mem_bytes(MEM_NB) == before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_text_stays), cmocka_unit_test(white_space), cmocka_unit_test(entities), cmocka_unit_test(characters),
        cmocka_unit_test(not_utf8), cmocka_unit_test(cleaning_without_memory), cmocka_unit_test(ids),
        cmocka_unit_test(special_names_are_text), cmocka_unit_test(truncation), cmocka_unit_test(combining_marks), cmocka_unit_test(refused_files),
        cmocka_unit_test(damaged_files),
    };

    return test_main("tokenizer", tests);
}
