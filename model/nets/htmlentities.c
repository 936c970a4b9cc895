/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names of HTML character references: the 106 that count without a semicolon too, and those of HTML 4, of ASCII punctuation,
 * of the Latin and Cyrillic letters of HTML 5. The mathematical and typographical rest of HTML 5's 2125 names is not here.
 * Source: HTML Living Standard, 13.5.
 */
#include <stdlib.h>
#include <string.h>

#include "nets/textclean.h"

typedef struct Entity {
    const char *name;
    int32_t code;
} Entity;

/* Both sorted by name. */
static const Entity legacy[] = {
    { "AElig", 198 }, { "AMP", 38 }, { "Aacute", 193 }, { "Acirc", 194 }, { "Agrave", 192 }, { "Aring", 197 },
    { "Atilde", 195 }, { "Auml", 196 }, { "COPY", 169 }, { "Ccedil", 199 }, { "ETH", 208 }, { "Eacute", 201 }, { "Ecirc", 202 },
    { "Egrave", 200 }, { "Euml", 203 }, { "GT", 62 }, { "Iacute", 205 }, { "Icirc", 206 }, { "Igrave", 204 }, { "Iuml", 207 },
    { "LT", 60 }, { "Ntilde", 209 }, { "Oacute", 211 }, { "Ocirc", 212 }, { "Ograve", 210 }, { "Oslash", 216 },
    { "Otilde", 213 }, { "Ouml", 214 }, { "QUOT", 34 }, { "REG", 174 }, { "THORN", 222 }, { "Uacute", 218 }, { "Ucirc", 219 },
    { "Ugrave", 217 }, { "Uuml", 220 }, { "Yacute", 221 }, { "aacute", 225 }, { "acirc", 226 }, { "acute", 180 },
    { "aelig", 230 }, { "agrave", 224 }, { "amp", 38 }, { "aring", 229 }, { "atilde", 227 }, { "auml", 228 }, { "brvbar", 166 },
    { "ccedil", 231 }, { "cedil", 184 }, { "cent", 162 }, { "copy", 169 }, { "curren", 164 }, { "deg", 176 }, { "divide", 247 },
    { "eacute", 233 }, { "ecirc", 234 }, { "egrave", 232 }, { "eth", 240 }, { "euml", 235 }, { "frac12", 189 },
    { "frac14", 188 }, { "frac34", 190 }, { "gt", 62 }, { "iacute", 237 }, { "icirc", 238 }, { "iexcl", 161 },
    { "igrave", 236 }, { "iquest", 191 }, { "iuml", 239 }, { "laquo", 171 }, { "lt", 60 }, { "macr", 175 }, { "micro", 181 },
    { "middot", 183 }, { "nbsp", 160 }, { "not", 172 }, { "ntilde", 241 }, { "oacute", 243 }, { "ocirc", 244 },
    { "ograve", 242 }, { "ordf", 170 }, { "ordm", 186 }, { "oslash", 248 }, { "otilde", 245 }, { "ouml", 246 }, { "para", 182 },
    { "plusmn", 177 }, { "pound", 163 }, { "quot", 34 }, { "raquo", 187 }, { "reg", 174 }, { "sect", 167 }, { "shy", 173 },
    { "sup1", 185 }, { "sup2", 178 }, { "sup3", 179 }, { "szlig", 223 }, { "thorn", 254 }, { "times", 215 }, { "uacute", 250 },
    { "ucirc", 251 }, { "ugrave", 249 }, { "uml", 168 }, { "uuml", 252 }, { "yacute", 253 }, { "yen", 165 }, { "yuml", 255 },
};

static const Entity others[] = {
    { "Abreve", 258 }, { "Acy", 1040 }, { "Alpha", 913 }, { "Amacr", 256 }, { "Aogon", 260 }, { "Bcy", 1041 }, { "Beta", 914 },
    { "CHcy", 1063 }, { "Cacute", 262 }, { "Ccaron", 268 }, { "Ccirc", 264 }, { "Cdot", 266 }, { "Chi", 935 },
    { "CloseCurlyDoubleQuote", 8221 }, { "CloseCurlyQuote", 8217 }, { "DJcy", 1026 }, { "DScy", 1029 }, { "DZcy", 1039 },
    { "Dagger", 8225 }, { "Dcaron", 270 }, { "Dcy", 1044 }, { "Delta", 916 }, { "Dstrok", 272 }, { "ENG", 330 },
    { "Ecaron", 282 }, { "Ecy", 1069 }, { "Edot", 278 }, { "Emacr", 274 }, { "Eogon", 280 }, { "Epsilon", 917 }, { "Eta", 919 },
    { "Fcy", 1060 }, { "GJcy", 1027 }, { "Gamma", 915 }, { "Gbreve", 286 }, { "Gcedil", 290 }, { "Gcirc", 284 },
    { "Gcy", 1043 }, { "Gdot", 288 }, { "HARDcy", 1066 }, { "Hat", 94 }, { "Hcirc", 292 }, { "Hstrok", 294 }, { "IEcy", 1045 },
    { "IJlig", 306 }, { "IOcy", 1025 }, { "Icy", 1048 }, { "Idot", 304 }, { "Imacr", 298 }, { "Iogon", 302 }, { "Iota", 921 },
    { "Itilde", 296 }, { "Iukcy", 1030 }, { "Jcirc", 308 }, { "Jcy", 1049 }, { "Jsercy", 1032 }, { "Jukcy", 1028 },
    { "KHcy", 1061 }, { "KJcy", 1036 }, { "Kappa", 922 }, { "Kcedil", 310 }, { "Kcy", 1050 }, { "LJcy", 1033 },
    { "Lacute", 313 }, { "Lambda", 923 }, { "Lcaron", 317 }, { "Lcedil", 315 }, { "Lcy", 1051 }, { "Lmidot", 319 },
    { "Lstrok", 321 }, { "Mcy", 1052 }, { "Mu", 924 }, { "NJcy", 1034 }, { "Nacute", 323 }, { "Ncaron", 327 },
    { "Ncedil", 325 }, { "Ncy", 1053 }, { "NewLine", 10 }, { "NonBreakingSpace", 160 }, { "Nu", 925 }, { "OElig", 338 },
    { "Ocy", 1054 }, { "Odblac", 336 }, { "Omacr", 332 }, { "Omega", 937 }, { "Omicron", 927 },
    { "OpenCurlyDoubleQuote", 8220 }, { "OpenCurlyQuote", 8216 }, { "Pcy", 1055 }, { "Phi", 934 }, { "Pi", 928 },
    { "Prime", 8243 }, { "Psi", 936 }, { "Racute", 340 }, { "Rcaron", 344 }, { "Rcedil", 342 }, { "Rcy", 1056 }, { "Rho", 929 },
    { "SHCHcy", 1065 }, { "SHcy", 1064 }, { "SOFTcy", 1068 }, { "Sacute", 346 }, { "Scaron", 352 }, { "Scedil", 350 },
    { "Scirc", 348 }, { "Scy", 1057 }, { "Sigma", 931 }, { "TSHcy", 1035 }, { "TScy", 1062 }, { "Tab", 9 }, { "Tau", 932 },
    { "Tcaron", 356 }, { "Tcedil", 354 }, { "Tcy", 1058 }, { "Theta", 920 }, { "Tstrok", 358 }, { "Ubrcy", 1038 },
    { "Ubreve", 364 }, { "Ucy", 1059 }, { "Udblac", 368 }, { "Umacr", 362 }, { "Uogon", 370 }, { "Upsilon", 933 },
    { "Uring", 366 }, { "Utilde", 360 }, { "Vcy", 1042 }, { "VerticalLine", 124 }, { "Wcirc", 372 }, { "Xi", 926 },
    { "YAcy", 1071 }, { "YIcy", 1031 }, { "YUcy", 1070 }, { "Ycirc", 374 }, { "Ycy", 1067 }, { "Yuml", 376 }, { "ZHcy", 1046 },
    { "Zacute", 377 }, { "Zcaron", 381 }, { "Zcy", 1047 }, { "Zdot", 379 }, { "ZeroWidthSpace", 8203 }, { "Zeta", 918 },
    { "abreve", 259 }, { "acy", 1072 }, { "alefsym", 8501 }, { "alpha", 945 }, { "amacr", 257 }, { "and", 8743 },
    { "ang", 8736 }, { "aogon", 261 }, { "apos", 39 }, { "ast", 42 }, { "asymp", 8776 }, { "bcy", 1073 }, { "bdquo", 8222 },
    { "beta", 946 }, { "bigstar", 9733 }, { "blank", 9251 }, { "block", 9608 }, { "bsol", 92 }, { "bull", 8226 },
    { "bullet", 8226 }, { "cacute", 263 }, { "cap", 8745 }, { "ccaron", 269 }, { "ccirc", 265 }, { "cdot", 267 },
    { "chcy", 1095 }, { "check", 10003 }, { "checkmark", 10003 }, { "chi", 967 }, { "circ", 710 }, { "clubs", 9827 },
    { "colon", 58 }, { "comma", 44 }, { "commat", 64 }, { "cong", 8773 }, { "copysr", 8471 }, { "crarr", 8629 },
    { "cross", 10007 }, { "cup", 8746 }, { "dArr", 8659 }, { "dagger", 8224 }, { "darr", 8595 }, { "dash", 8208 },
    { "dcaron", 271 }, { "dcy", 1076 }, { "delta", 948 }, { "diams", 9830 }, { "djcy", 1106 }, { "dollar", 36 },
    { "dscy", 1109 }, { "dstrok", 273 }, { "dzcy", 1119 }, { "ecaron", 283 }, { "ecy", 1101 }, { "edot", 279 }, { "ell", 8467 },
    { "emacr", 275 }, { "empty", 8709 }, { "emsp", 8195 }, { "eng", 331 }, { "ensp", 8194 }, { "eogon", 281 },
    { "epsilon", 949 }, { "equals", 61 }, { "equiv", 8801 }, { "eta", 951 }, { "euro", 8364 }, { "excl", 33 },
    { "exist", 8707 }, { "fcy", 1092 }, { "female", 9792 }, { "ffilig", 64259 }, { "fflig", 64256 }, { "ffllig", 64260 },
    { "filig", 64257 }, { "flat", 9837 }, { "fllig", 64258 }, { "fnof", 402 }, { "forall", 8704 }, { "frac13", 8531 },
    { "frac15", 8533 }, { "frac18", 8539 }, { "frac23", 8532 }, { "frac38", 8540 }, { "frac58", 8541 }, { "frac78", 8542 },
    { "frasl", 8260 }, { "gamma", 947 }, { "gbreve", 287 }, { "gcirc", 285 }, { "gcy", 1075 }, { "gdot", 289 }, { "ge", 8805 },
    { "gjcy", 1107 }, { "grave", 96 }, { "hArr", 8660 }, { "hairsp", 8202 }, { "half", 189 }, { "hardcy", 1098 },
    { "harr", 8596 }, { "hcirc", 293 }, { "hearts", 9829 }, { "hellip", 8230 }, { "horbar", 8213 }, { "hstrok", 295 },
    { "hyphen", 8208 }, { "icy", 1080 }, { "iecy", 1077 }, { "ijlig", 307 }, { "imacr", 299 }, { "image", 8465 },
    { "imath", 305 }, { "incare", 8453 }, { "infin", 8734 }, { "inodot", 305 }, { "int", 8747 }, { "iocy", 1105 },
    { "iogon", 303 }, { "iota", 953 }, { "isin", 8712 }, { "itilde", 297 }, { "iukcy", 1110 }, { "jcirc", 309 },
    { "jcy", 1081 }, { "jsercy", 1112 }, { "jukcy", 1108 }, { "kappa", 954 }, { "kcedil", 311 }, { "kcy", 1082 },
    { "kgreen", 312 }, { "khcy", 1093 }, { "kjcy", 1116 }, { "lArr", 8656 }, { "lacute", 314 }, { "lambda", 955 },
    { "lang", 10216 }, { "larr", 8592 }, { "lbrace", 123 }, { "lbrack", 91 }, { "lcaron", 318 }, { "lcedil", 316 },
    { "lceil", 8968 }, { "lcub", 123 }, { "lcy", 1083 }, { "ldquo", 8220 }, { "ldquor", 8222 }, { "le", 8804 },
    { "lfloor", 8970 }, { "ljcy", 1113 }, { "lmidot", 320 }, { "lowast", 8727 }, { "lowbar", 95 }, { "loz", 9674 },
    { "lpar", 40 }, { "lrm", 8206 }, { "lsaquo", 8249 }, { "lsqb", 91 }, { "lsquo", 8216 }, { "lsquor", 8218 },
    { "lstrok", 322 }, { "male", 9794 }, { "mcy", 1084 }, { "mdash", 8212 }, { "midast", 42 }, { "minus", 8722 },
    { "mldr", 8230 }, { "mu", 956 }, { "nabla", 8711 }, { "nacute", 324 }, { "napos", 329 }, { "natural", 9838 },
    { "ncaron", 328 }, { "ncedil", 326 }, { "ncy", 1085 }, { "ndash", 8211 }, { "ne", 8800 }, { "ni", 8715 }, { "njcy", 1114 },
    { "nldr", 8229 }, { "notin", 8713 }, { "nsub", 8836 }, { "nu", 957 }, { "num", 35 }, { "numero", 8470 }, { "numsp", 8199 },
    { "ocy", 1086 }, { "odblac", 337 }, { "oelig", 339 }, { "oline", 8254 }, { "omacr", 333 }, { "omega", 969 },
    { "omicron", 959 }, { "oplus", 8853 }, { "or", 8744 }, { "otimes", 8855 }, { "part", 8706 }, { "pcy", 1087 },
    { "percnt", 37 }, { "period", 46 }, { "permil", 8240 }, { "perp", 8869 }, { "phi", 966 }, { "phone", 9742 }, { "pi", 960 },
    { "piv", 982 }, { "plus", 43 }, { "prime", 8242 }, { "prod", 8719 }, { "prop", 8733 }, { "psi", 968 }, { "puncsp", 8200 },
    { "quest", 63 }, { "rArr", 8658 }, { "racute", 341 }, { "radic", 8730 }, { "rang", 10217 }, { "rarr", 8594 },
    { "rbrace", 125 }, { "rbrack", 93 }, { "rcaron", 345 }, { "rcedil", 343 }, { "rceil", 8969 }, { "rcub", 125 },
    { "rcy", 1088 }, { "rdquo", 8221 }, { "rdquor", 8221 }, { "real", 8476 }, { "rfloor", 8971 }, { "rho", 961 },
    { "rlm", 8207 }, { "rpar", 41 }, { "rsaquo", 8250 }, { "rsqb", 93 }, { "rsquo", 8217 }, { "rsquor", 8217 },
    { "sacute", 347 }, { "sbquo", 8218 }, { "scaron", 353 }, { "scedil", 351 }, { "scirc", 349 }, { "scy", 1089 },
    { "sdot", 8901 }, { "semi", 59 }, { "sharp", 9839 }, { "shchcy", 1097 }, { "shcy", 1096 }, { "sigma", 963 },
    { "sigmaf", 962 }, { "sim", 8764 }, { "softcy", 1100 }, { "sol", 47 }, { "spades", 9824 }, { "star", 9734 },
    { "starf", 9733 }, { "sub", 8834 }, { "sube", 8838 }, { "sum", 8721 }, { "sung", 9834 }, { "sup", 8835 }, { "supe", 8839 },
    { "tau", 964 }, { "tcaron", 357 }, { "tcedil", 355 }, { "tcy", 1090 }, { "there4", 8756 }, { "theta", 952 },
    { "thetasym", 977 }, { "thinsp", 8201 }, { "tilde", 732 }, { "trade", 8482 }, { "tscy", 1094 }, { "tshcy", 1115 },
    { "tstrok", 359 }, { "uArr", 8657 }, { "uarr", 8593 }, { "ubrcy", 1118 }, { "ubreve", 365 }, { "ucy", 1091 },
    { "udblac", 369 }, { "umacr", 363 }, { "uogon", 371 }, { "upsih", 978 }, { "upsilon", 965 }, { "uring", 367 },
    { "utilde", 361 }, { "vcy", 1074 }, { "verbar", 124 }, { "vert", 124 }, { "wcirc", 373 }, { "weierp", 8472 }, { "xi", 958 },
    { "yacy", 1103 }, { "ycirc", 375 }, { "ycy", 1099 }, { "yicy", 1111 }, { "yucy", 1102 }, { "zacute", 378 },
    { "zcaron", 382 }, { "zcy", 1079 }, { "zdot", 380 }, { "zeta", 950 }, { "zhcy", 1078 }, { "zwj", 8205 }, { "zwnj", 8204 },
};

typedef struct Key {
    const char *name;
    size_t size;
} Key;

static int compare(const void *a, const void *b)
{
    const Key *key = a;
    const Entity *e = b;
    const int c = strncmp(key->name, e->name, key->size);

    return c ? c : -(e->name[key->size] != 0);                      // a longer name comes later
}

int32_t avt_html_entity(const char *name, size_t size, int only_legacy)
{
    const Key key = { name, size };
    const Entity *e = bsearch(&key, legacy, sizeof(legacy) / sizeof(legacy[0]), sizeof(legacy[0]), compare);

    if (!e && !only_legacy)
        e = bsearch(&key, others, sizeof(others) / sizeof(others[0]), sizeof(others[0]), compare);
    return e ? e->code : -1;
}
