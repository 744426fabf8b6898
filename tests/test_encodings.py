"""Encodings: text in legacy encodings is decoded as what it is, one encoding per file, and the manifest lists it."""

# ruff: noqa: RUF001  # letters of many scripts look alike

from __future__ import annotations

import json
from pathlib import Path

import pytest
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import shards, sources
from mlm_dist.corpus.readers import Document, Dropped, text_encoding
from mlm_dist.errors import ConfigError

TEXTS = {
    "german": "Die Bücher für die Prüfung liegen schon auf dem großen Tisch. Später müssen wir noch über "
    "die Größe der "
    "Räume sprechen, weil sich die Gäste außerdem für das Frühstück anmelden möchten.",
    "french": "Le café était fermé, mais la boulangère a gardé trois pâtisseries près de la fenêtre. Où est passé le "
    "garçon qui préférait les crêpes à la crème fraîche, là où l'été dernier on vendait des pêches ?",
    "spanish": "El niño comió piña en el jardín mientras su mamá leía una canción. Después llegó un señor "
    "de Córdoba, "
    "que pidió más información sobre el próximo año y también sobre los años pasados.",
    "portuguese": "São Paulo é uma cidade muito grande. As crianças não gostam de açúcar no pão, mas a mãe "
    "põe limões e "
    "maçãs na mesa e diz que amanhã haverá mais informações sobre a região.",
    "italian": "La città è bella perché la libertà è di tutti. Però già nel lunedì di quella settimana più persone "
    "andarono là, e così la verità venne fuori: la qualità è tutto, e non c'è novità.",
    "swedish": "På sommaren går barnen till sjön för att bada, och på kvällen äter vi fågel med "
    "grönsaker. Därför är det "
    "så många människor här; även om vädret är dåligt åker vi båt.",
    "danish": "På øen bor der både unge og ældre mennesker. Når året er gået, spiser vi æbler, grød og "
    "brød i køkkenet, "
    "og så går vi en tur langs åen, før det bliver mørkt.",
    "finnish": "Hyvää päivää! Tämä on lyhyt teksti siitä, miten kesällä mennään järvelle uimaan. Äiti "
    "lähtee töihin, mutta "
    "isä jää kotiin tekemään ruokaa ja lämmittämään saunaa.",
    "czech": "Příliš žluťoučký kůň úpěl ďábelské ódy. Večer jsme šli do města, kde nás čekali přátelé, kteří měli "
    "v košíku čerstvé houby, a pak jsme ještě dlouho mluvili o tom, co bude příští týden.",
    "polish": "Zażółć gęślą jaźń. Wieczorem poszliśmy do miasta, gdzie czekali na nas przyjaciele, "
    "którzy mieli świeże "
    "grzyby, a później jeszcze długo rozmawialiśmy o tym, co będzie w następną środę.",
    "hungarian": "Az őszi erdőben a fák levelei lassan megsárgultak. A gyerekek örömmel gyűjtötték a "
    "gesztenyét, és este "
    "a nagymama történeteit hallgatták a tűz mellett, míg künn fújt a hűvös szél.",
    "russian": "Сегодня утром мы пошли в лес собирать грибы. Дорога была долгой, но погода стояла хорошая, и дети "
    "радовались каждой поляне. Вечером бабушка приготовила суп, и все остались довольны.",
    "ukrainian": "Сьогодні вранці ми пішли до лісу збирати гриби. Дорога була довгою, але погода стояла "
    "гарна, і діти "
    "раділи кожній галявині. Увечері бабуся зварила їжу, і всі були щасливі.",
    "greek": "Σήμερα το πρωί πήγαμε στη θάλασσα με τους φίλους μας. Ο καιρός ήταν καλός και τα παιδιά "
    "έπαιζαν στην άμμο "
    "μέχρι το βράδυ, όταν η γιαγιά μάς φώναξε για φαγητό.",
    "turkish": "Güneş doğdu ve ışık odanın içine girdi. Çocuklar bahçede oynarken annesi çay hazırladı; "
    "öğleden sonra "
    "şehre gidip eski dostlarını gördüler ve akşam geç saatlere kadar konuştular.",
    "hebrew": "היום בבוקר הלכנו אל הים עם החברים שלנו. מזג האוויר היה נעים והילדים שיחקו בחול עד הערב, ואז סבתא קראה "
    "לכולם לבוא הביתה לאכול.",
    "arabic": "ذهبنا هذا الصباح إلى البحر مع أصدقائنا. كان الجو جميلا ولعب الأطفال في الرمل حتى المساء، "
    "ثم دعتنا الجدة "
    "إلى البيت لتناول الطعام.",
    "lithuanian": "Šiandien ryte ėjome į mišką grybauti. Kelias buvo ilgas, bet oras gražus, ir vaikai "
    "džiaugėsi kiekviena "
    "pieva. Vakare močiutė išvirė sriubos, o mes dar ilgai šnekėjomės apie ąžuolus.",
    "thai": "เช้านี้พวกเราไปทะเลกับเพื่อน อากาศดีมากและเด็กๆ เล่นทรายกันจนถึงเย็น แล้วคุณยายก็เรียกทุกคนกลับบ้านมากินข้าว",
    "japanese": "今日の朝、私たちは友だちと一緒に海へ行きました。天気がよくて、子どもたちは夕方まで砂で遊び"
    "ました。それから"
    "おばあさんがみんなを家に呼んで、ごはんを食べました。",
    "korean": "오늘 아침 우리는 친구들과 함께 바다에 갔습니다. 날씨가 좋아서 아이들은 저녁까지 모래에서 "
    "놀았고, 그 다음에 "
    "할머니께서 모두를 집으로 불러 밥을 먹었습니다.",
    "chinese": "今天早上我们和朋友一起去海边。天气很好，孩子们在沙滩上玩到傍晚，然后奶奶叫大家回家吃饭。晚"
    "上我们还谈了很久。",
    "taiwanese": "今天早上我們和朋友一起去海邊。天氣很好，孩子們在沙灘上玩到傍晚，然後奶奶叫大家回家吃飯。晚"
    "上我們還談了很久。",
}
WESTERN = ("german", "french", "spanish", "portuguese", "italian", "swedish", "danish", "finnish")
CENTRAL = ("czech", "polish", "hungarian")
ENCODINGS = {
    **dict.fromkeys(("cp1252", "latin-1", "iso8859-15", "mac-roman", "cp850"), WESTERN),
    **dict.fromkeys(("cp1250", "iso8859-2", "cp852"), CENTRAL),
    **dict.fromkeys(("cp1251", "koi8-r", "iso8859-5", "cp866"), ("russian",)),
    "koi8-u": ("ukrainian",),
    **dict.fromkeys(("cp1253", "iso8859-7"), ("greek",)),
    **dict.fromkeys(("cp1254", "iso8859-9"), ("turkish",)),
    **dict.fromkeys(("cp1255", "iso8859-8"), ("hebrew",)),
    "cp437": ("german", "french", "spanish", "swedish"),
    "cp1256": ("arabic",),
    "cp1257": ("lithuanian",),
    "cp874": ("thai",),
    **dict.fromkeys(("shift_jis", "euc-jp", "iso2022-jp"), ("japanese",)),
    **dict.fromkeys(("euc-kr", "cp949"), ("korean",)),
    **dict.fromkeys(("gbk", "gb2312", "gb18030"), ("chinese",)),
    "big5": ("taiwanese",),
}
CASES = [(encoding, language) for encoding, languages in ENCODINGS.items() for language in languages]
UNICODE = {"utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"}


@pytest.mark.parametrize(("encoding", "language"), CASES)
def test_text_in_a_legacy_encoding(encoding: str, language: str) -> None:
    """A paragraph, the same among much English, and the same many times."""
    text = TEXTS[language]
    english = [f"Line {i} says that the files are read once, in order." for i in range(40)]
    for whole in (text, text + "\n", "\n".join([*english, text, *english]), (text + "\n") * 100):
        found, name = text_encoding.decode(whole.encode(encoding))
        assert found == whole, name
        assert name not in UNICODE | {"replaced"}


# Few letters outside ASCII, which many encodings explain: Windows-1252 is by far the most common.
SHORT = """\
El niño comió piña.
Größe in Metern.
Le café est fermé.
naïve approach
piñata
déjà vu
vis-à-vis
São Paulo é uma cidade.
Señor Muñoz vive aquí.
Où est la bibliothèque ?
La città è bella.
Perché no?
mañana será otro día
Smörgåsbord is a Swedish word.
Ærlig talt, det er både bra og dårlig.
Hyvää päivää
Það er gott að búa á Íslandi.
It\u2019s a test \u2013 really.
\u201cQuoted\u201d text\u2026 and more
The temperature is 20°C.
Price: 5 € or £4
© 2020 Müller GmbH
½ cup of sugar
§ 4 Abs. 2
2 × 3 = 6
a ± b
5 µm wide
¿Qué hora es?
¡Hola!
« Bonjour », dit-il.
Les œuvres complètes
trade™ mark®
""".splitlines()


@pytest.mark.parametrize("text", SHORT)
def test_short_western_text(text: str) -> None:
    english = "\n".join(["plain words, nothing else"] * 40)
    for whole in (text, text + "\n", f"{english}\n{text}\n{english}"):
        assert text_encoding.decode(whole.encode("cp1252")) == (whole, "cp1252")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("<meta charset='koi8-r'><p>Это</p>", "koi8-r"),
        ('<META http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>Мы</p>', "cp1251"),
        ('<?xml version="1.0" encoding="ISO-8859-5"?>\n<a>Да</a>', "iso8859-5"),
        ("#!/usr/bin/python\n# -*- coding: mac-roman -*-\n# é\n", "mac-roman"),
        (".. -*- coding: cp850 -*-\n\nà la carte\n", "cp850"),
    ],
)
def test_encoding_that_a_text_declares_is_used(text: str, encoding: str) -> None:
    assert text_encoding.decode(text.encode(encoding)) == (text, encoding)


def test_declaration_that_does_not_hold_is_not_used() -> None:
    head = "<meta charset=utf-8>"
    assert text_encoding.decode((head + TEXTS["russian"]).encode("cp1251")) == (head + TEXTS["russian"], "cp1251")
    head = "<meta charset=iso-8859-1>"
    assert text_encoding.decode((head + TEXTS["russian"]).encode("koi8-r")) == (head + TEXTS["russian"], "koi8-r")
    assert text_encoding.decode((head + TEXTS["russian"]).encode()) == (head + TEXTS["russian"], "utf-8")


@pytest.mark.parametrize("language", ["russian", "greek", "japanese", "chinese", "french"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_byte_order_mark_in_any_language(language: str, encoding: str) -> None:
    text = TEXTS[language] + "\nend\n"
    assert text_encoding.decode(text.encode(encoding)) == (text, encoding)
    assert not text_encoding.is_binary(text.encode(encoding))


def test_bytes_that_are_no_text_in_any_encoding_are_replaced() -> None:
    data = bytes(range(1, 256)) * 4
    assert text_encoding.decode(data)[1] == "replaced"


def read(folder: Path, **settings: str) -> list[Document | Dropped]:
    name = {"corpus.source": str(folder), "corpus.patterns": "['*']", **settings}
    config = parse([f"--{key}={value}" for key, value in name.items()]).corpus
    source = sources.acquire(config, folder.parent)
    return [found for shard in shards.shards(source) for found in shards.read(source, shard.parts, 1_000_000)]


def test_one_encoding_is_decided_for_all_texts_of_a_file(tmp_path: Path) -> None:
    """The short texts alone would be taken for something else."""
    texts = [TEXTS["polish"], "Łódź", "ż", "plain words"]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(texts, ensure_ascii=False), "iso8859-2")
    found = read(path)
    assert [one.text for one in found if isinstance(one, Document)] == texts
    assert {one.encoding for one in found if isinstance(one, Document)} == {"iso8859-2"}
    path = tmp_path / "records.txt"
    path.write_text("\n==\n".join(texts), "iso8859-2")
    found = read(path, **{"corpus.separator": "=="})
    assert [one.text for one in found if isinstance(one, Document)] == texts
    for encoding in ("iso8859-2", "utf-16", "utf-16-le"):
        path = tmp_path / "lines.jsonl"
        path.write_text("\n".join(json.dumps(text, ensure_ascii=False) for text in texts), encoding)
        assert [one.text for one in read(path) if isinstance(one, Document)] == texts


def test_encoding_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    for encoding, language in CASES:
        if encoding == "iso2022-jp":  # found by its escapes, at the beginning of a file only
            continue
        path = tmp_path / "file"
        text = "plain words\n" * 50_000 + TEXTS[language] + "\n"
        path.write_bytes(text.encode(encoding))
        found = text_encoding.encoding_of(str(path))
        assert not found.loses
        assert path.read_bytes().decode(found.name) == text
        assert found.name == text_encoding.decode(path.read_bytes())[1]
        path.unlink()


def test_encoding_can_be_forced(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("jalapeño", "mac-roman")
    (found,) = read(folder, **{"corpus.encoding": "mac_roman"})
    assert found == Document("a.md", "jalapeño", "mac_roman", "markdown")
    (folder / "a.md").write_bytes("caf\xe9".encode("latin-1"))
    (found,) = read(folder, **{"corpus.encoding": "utf-8"})
    assert found == Document("a.md", "caf\N{REPLACEMENT CHARACTER}", "replaced", "markdown")
    (folder / "a.md").write_bytes("\ufeffGröße".encode("utf-16-le"))
    (found,) = read(folder, **{"corpus.encoding": "utf-16-le"})
    assert found == Document("a.md", "Größe", "utf-16-le", "markdown")
    (folder / "a.json").write_text('["jalapeño"]', "mac-roman")
    found = next(one for one in read(folder, **{"corpus.encoding": "mac_roman"}) if one.id == "a.json#0")
    assert isinstance(found, Document) and found.text == "jalapeño"


@pytest.mark.parametrize("name", ["no-such-encoding", "base64", "rot13", "hex", "", "a\0b", "undefined", "idna"])
def test_encoding_that_python_cannot_decode_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.encoding: must be the name of a text encoding"):
        parse([f"--corpus.encoding={name}"] if name else ["--corpus.encoding=''"])


def test_manifest_lists_the_files_that_are_not_in_unicode(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for language in ("german", "french", "russian", "japanese"):
        (folder / f"{language}.md").write_text(TEXTS[language] + f"\n{language}\n", "utf-8")
    (folder / "west.md").write_text(TEXTS["spanish"], "cp1252")
    (folder / "north#1.md").write_text(TEXTS["danish"], "latin-1")
    (folder / "east.md").write_text(TEXTS["ukrainian"], "koi8-u")
    (folder / "wide.md").write_text(TEXTS["greek"], "utf-16")
    (folder / "list.json").write_text(json.dumps([TEXTS["polish"], TEXTS["czech"]], ensure_ascii=False), "cp1250")
    (folder / "bad.md").write_bytes(TEXTS["chinese"].encode() + b"\xff")
    config = parse(
        [
            *(f"--corpus.source={folder}", "--corpus.patterns=['*']", f"--corpus.cache_dir={tmp_path}/cache"),
            *("--corpus.min_chars=1", "--tokenizer.train_vocab_size=400"),
        ]
    )
    manifest = prepare(config).manifest
    assert manifest["decoded"] == {
        "cp1250": ["list.json"],
        "cp1252": ["north#1.md", "west.md"],
        "koi8-u": ["east.md"],
        "replaced": ["bad.md"],
    }
    assert manifest["encodings"] == {"cp1250": 2, "cp1252": 2, "koi8-u": 1, "replaced": 1, "utf-16": 1, "utf-8": 4}
