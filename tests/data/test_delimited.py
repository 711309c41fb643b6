"""CSV and TSV tables: what is understood, and the one message for each thing that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_tables import touch_images, write_csv
from vitkit.config import UserError
from vitkit.data.delimited import read_csv_paths
from vitkit.data.sources import Sample, Source, match_classes, read_source


def labels_of(source: Source, split: str = "all") -> list[str]:
    return [source.classes[sample.label] for sample in source.splits[split]]


def test_a_table_gives_images_in_its_order_with_classes_in_sorted_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "pets.csv", "path,label", "img/b.png,dog", "img/a.png,cat", "img/c.png,dog")
    source = read_source(path)
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert source.splits["all"] == [
        Sample("img/b.png", tmp_path / "img/b.png", 1),
        Sample("img/a.png", tmp_path / "img/a.png", 0),
        Sample("img/c.png", tmp_path / "img/c.png", 1),
    ]
    assert source.notes == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"image;class\r\na.png;cat\r\nb.png;dog\r\n"),
        ("a.csv", b"\xef\xbb\xbffile,target\na.png,cat\nb.png,dog"),
        ("a.tsv", b"FileName\tCategory\na.png\tcat\n\nb.png\tdog\n\n"),
        ("a.csv", b'"image_path","class_name"\n"a.png","cat"\n"b.png","dog"\n'),
        ("a.csv", b" file_name , label \n a.png , cat \n b.png , dog \n"),
        ("a.csv", b"filepath,label\na.png,cat\nb.png,dog\n"),
        ("a.csv", b"image_file\tlabel\ra.png\tcat\rb.png\tdog\r"),
    ],
    ids=["semicolon-crlf", "bom", "tab-blank-lines", "quoted", "spaces", "comma", "old-mac"],
)  # fmt: skip
def test_dialects_are_told_apart(tmp_path: Path, name: str, content: bytes) -> None:
    touch_images(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_bytes(content)
    source = read_source(tmp_path / name)
    assert [(s.name, source.classes[s.label]) for s in source.splits["all"]] == [("a.png", "cat"), ("b.png", "dog")]


def test_quoted_fields_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    touch_images(tmp_path, "a, b.png", 'the "c".png')
    (tmp_path / "t.csv").write_text('path,label,note\n"a, b.png",x,"two\nlines"\n"the ""c"".png",y,\n')
    source = read_source(tmp_path / "t.csv")
    assert [s.name for s in source.splits["all"]] == ["a, b.png", 'the "c".png']
    assert source.notes == ("t.csv: columns that were not read: 'note'",)
    (tmp_path / "t.csv").write_text('path,label,note\n"a, b.png",x,"two\nlines"\nthe c.png,y,,\n')
    with pytest.raises(UserError, match="line 4 has 4 fields, expected 3"):
        read_source(tmp_path / "t.csv")


def test_absolute_paths_and_paths_above_the_table_are_allowed_where_they_exist(tmp_path: Path) -> None:
    touch_images(tmp_path, "up.png", "far/away.png")
    path = write_csv(tmp_path / "in" / "t.csv", "path,label", "../up.png,a", f"{tmp_path}/far/away.png,b", images=False)
    assert [str(Path(str(s.source)).resolve()) for s in read_source(path).splits["all"]] == [
        str((tmp_path / "up.png").resolve()),
        str((tmp_path / "far/away.png").resolve()),
    ]


def test_a_split_column_goes_by_several_words(tmp_path: Path) -> None:
    words = ["train", "Training", "val", "valid", "VALIDATION", "test", "testing"]
    rows = [f"{i}.png,{'ab'[i % 2]},{word}" for i, word in enumerate(words)]
    source = read_source(write_csv(tmp_path / "t.csv", "path,label,Split", *rows))
    assert {split: [s.name for s in part] for split, part in source.splits.items()} == {
        "train": ["0.png", "1.png"],
        "val": ["2.png", "3.png", "4.png"],
        "test": ["5.png", "6.png"],
    }
    with pytest.raises(UserError, match=r"line 2 has the split 'trian'; expected one of train.*Did you mean 'train'"):
        read_source(write_csv(tmp_path / "t.csv", "path,label,split", "0.png,a,trian", "1.png,b,train"))


def test_integer_labels_are_names_in_numeric_order_or_index_the_class_list(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,label", "a.png,10", "b.png,2", "c.png,0")
    assert read_source(path).classes == ("0", "2", "10")
    assert labels_of(read_source(path)) == ["10", "2", "0"]
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbf" + "".join(f"c{i}\r\n" for i in range(11)).encode())
    source = read_source(path)
    assert source.classes == tuple(f"c{i}" for i in range(11))
    assert labels_of(source) == ["c10", "c2", "c0"]
    assert source.notes == ("8 of 11 classes have no image: 'c1', 'c3', 'c4', 'c5' and 4 more",)


def test_numbers_with_leading_zeros_are_names(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,label", "a.png,007", "b.png,100", "c.png,0")
    assert read_source(path).classes == ("0", "007", "100")


def test_the_class_list_gives_the_order_and_must_hold_every_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,label", "a.png,cat", "b.png,dog")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert read_source(path).classes == ("dog", "cat")
    (tmp_path / "classes.txt").write_text("dogs\ncat\n")
    with pytest.raises(UserError, match=r"line 3 has the label 'dog', which is not in .*Did you mean 'dogs'"):
        read_source(path)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("a\n\nb\n", "line 2 is empty"),
        ("a\nb\na\n", "class name 'a' twice, for classes 0 and 2"),
        ("\n", "is empty"),
    ],
)
def test_a_class_list_that_is_no_list_is_refused(tmp_path: Path, listed: str, message: str) -> None:
    path = write_csv(tmp_path / "t.csv", "path,label", "a.png,a", "b.png,b")
    (tmp_path / "classes.txt").write_text(listed)
    with pytest.raises(UserError, match=message):
        read_source(path)


def test_numbers_that_are_names_and_places_of_other_names_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,label", "a.png,0", "b.png,1")
    (tmp_path / "classes.txt").write_text("0\n1\n")
    assert labels_of(read_source(path)) == ["0", "1"]
    (tmp_path / "classes.txt").write_text("1\n0\n")
    with pytest.raises(UserError, match=r"line 2 has the label 0, which is a class name .* and also the number of"):
        read_source(path)
    (tmp_path / "classes.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"line 3 has the label 1; .* holds 1 classes, 0 to 0"):
        read_source(path)


def test_several_labels_are_joined_by_bars(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,labels", "a.png,sea|sky", "b.png,", "c.png, sky | tree ", "d.png,sea")
    source = read_source(path)
    assert source.multilabel
    assert source.classes == ("sea", "sky", "tree")
    assert [(s.label, s.labels) for s in source.splits["all"]] == [(-1, (0, 1)), (-1, ()), (-1, (1, 2)), (-1, (0,))]
    assert source.notes == ("1 images of all have none of the classes",)
    with pytest.raises(UserError, match=r"line 2 names a class twice: sea\|sea"):
        read_source(write_csv(tmp_path / "t.csv", "path,labels", "a.png,sea|sea"))
    with pytest.raises(UserError, match="line 2 has an empty label"):
        read_source(write_csv(tmp_path / "t.csv", "path,labels", "a.png,sea||sky"))


def test_columns_of_zero_and_one_are_classes_in_their_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,tree,sea,age,who", "a.png,1,0,40,x", "b.png,1.0,1,1,y", "c.png,0,0,7,z")
    source = read_source(path)
    assert source.multilabel
    assert source.classes == ("tree", "sea")
    assert [s.labels for s in source.splits["all"]] == [(0,), (0, 1), ()]
    assert source.notes == (
        "t.csv: the classes are its columns of 0 and 1",
        "t.csv: columns that were not read: 'age', 'who'",
        "1 images of all have none of the classes",
    )
    (tmp_path / "classes.txt").write_text("sea\ntree\n")
    assert [s.labels for s in read_source(path).splits["all"]] == [(1,), (0, 1), ()]
    (tmp_path / "classes.txt").write_text("sea\ntrees\n")
    with pytest.raises(UserError, match=r"Make them agree, or remove classes\.txt"):
        read_source(path)


@pytest.mark.parametrize("value", ["2", "", "-1", "yes"])
def test_another_value_in_a_class_column_is_refused(tmp_path: Path, value: str) -> None:
    path = write_csv(tmp_path / "t.csv", "path,tree,sea", "a.png,1,0", "b.png,1,1", f"c.png,0,{value}")
    with pytest.raises(
        UserError, match=r"line 4 has .* in the column 'sea'; a column that stands for a class holds 0 or"
    ):
        read_source(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,label", "a.png,x"], r"no column of image paths: found 'name', 'label', expected one of path, image"),
        (["pth,label", "a.png,x"], r"For 'pth': Did you mean 'path'"),
        (["a.png,cat", "b.png,dog"], r"The first line names the columns"),
        (["path,lable", "a.png,x"], r"no column of labels: found 'path', 'lable'.*For 'lable': Did you mean 'label'"),
        (["path", "a.png"], r"no column of labels: found 'path', expected one of label"),
        (["path,flag", "a.png,1"], r"no column of labels: .*two or more columns of 0 and 1"),
        (["path,label", "a.png,cat", "b.png,3"], r"line 2 has the word 'cat' for a label, and .*line 3 the number 3"),
        (["path,label", "a.png,cat", "b.png,"], r"line 3 has an empty label"),
        (["path,label", "a.png,1", "b.png,-1"], r"line 3 has the label -1, which often stands for a hidden label"),
        (["path,label", "a.png,x", "b.png,y,z"], r"line 3 has 3 fields, expected 2"),
        (["path,label", "a.png"], r"line 2 has 1 fields, expected 2"),
        (["path,label"], r"has column names and no rows"),
        (["path,Path,label", "a.png,b.png,c"], r"has the column 'path' twice"),
        (["path,label,labels", "a.png,x,y"], r"'label' for one label and 'labels' for several. Keep one"),
        (["path,label", 'a.png,"x'], r"line 2 cannot be read: .*A quoted field must be closed"),
        (["path,label", "a.png,x", "./a.png,x"], r"twice, with the same label: lines 2 and 3"),
        (["path,label", "a.png,x", "a.png,y"], r"twice, with conflicting labels, 'x' and 'y': lines 2 and 3"),
        (["path,label,split", "a.png,x,val", "a.png,x,train"], r"twice, in the val and in the train split: lines 2 and 3"),
    ],
)  # fmt: skip
def test_mistakes_have_one_message_with_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    touch_images(tmp_path, "a.png", "b.png")
    path = write_csv(tmp_path / "t.csv", *lines, images=False)
    with pytest.raises(UserError, match=message) as raised:
        read_source(path)
    assert str(path) in str(raised.value)


def test_an_empty_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3 has no image path"):
        read_source(write_csv(tmp_path / "t.csv", "path,label", "a.png,x", ",y", images=False))


def test_missing_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    touch_images(tmp_path, "a.png")
    path = write_csv(tmp_path / "t.csv", "path,label", "a.png,x", "no.png,x", "img\\no.png,y", images=False)
    with pytest.raises(UserError, match=r"2 of the 3 images that .* cannot be found, the first in line 3: no\.png"):
        read_source(path)
    with pytest.raises(UserError, match="Write / in paths"):
        read_source(write_csv(tmp_path / "t.csv", "path,label", "img\\no.png,y", images=False))
    with pytest.raises(UserError, match="download the images first"):
        read_source(write_csv(tmp_path / "t.csv", "path,label", "https://x.org/a.png,y", images=False))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        read_source(write_csv(tmp_path / "t.csv", "path,label", "a" * 5000 + ",y", images=False))
    with pytest.raises(UserError, match="is a folder"):
        read_source(write_csv(tmp_path / "t.csv", "path,label", "folder,y", images=False))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a line of column names"),
        (b"\n\n", "is empty; expected a line of column names"),
        (b"path,label\na.png,caf\xe9\n", "line 2 is not UTF-8"),
        ("path,label\na.png,x\n".encode("utf-16"), "is UTF-16; expected UTF-8"),
        (b"path,label\na.png,x\0\n", "line 2 holds a zero byte"),
    ],
)
def test_other_encodings_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    touch_images(tmp_path, "a.png")
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_source(tmp_path / "t.csv")


def test_columns_that_could_be_meant_too_are_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "path,filename,class_name,label", "a.png,b.png,cat,1", "c.png,d.png,dog,0")
    source = read_source(path)
    assert source.classes == ("0", "1")
    assert source.notes == (
        "t.csv: images are read from the column 'path', not 'filename'",
        "t.csv: labels are read from the column 'label', not 'class_name'",
    )


def test_bars_in_a_column_of_one_label_are_told(tmp_path: Path) -> None:
    source = read_source(write_csv(tmp_path / "t.csv", "path,label", "a.png,cat|dog", "b.png,cat"))
    assert source.classes == ("cat", "cat|dog")
    assert source.notes == ("t.csv: 'cat|dog' is taken for one class; several are joined by | in a column 'labels'",)


def test_very_long_numbers_are_names(tmp_path: Path) -> None:
    long = "9" * 5000
    assert read_source(write_csv(tmp_path / "t.csv", "path,label", f"a.png,{long}", "b.png,1")).classes == ("1", long)


def test_several_labels_are_renumbered_by_name(tmp_path: Path) -> None:
    source = read_source(write_csv(tmp_path / "t.csv", "path,labels", "a.png,sea|sky", "b.png,"))
    matched = match_classes(source, ["sky", "tree", "sea"])
    assert matched.multilabel
    assert matched.splits["all"] == [
        Sample("a.png", tmp_path / "a.png", -1, (0, 2)),
        Sample("b.png", tmp_path / "b.png", -1, ()),
    ]
    with pytest.raises(UserError, match="does not know: 'sea'"):
        match_classes(source, ["sky"])


def test_images_without_labels_can_be_listed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", "id,path", "1,b.png", "2,gone.png", images=False)
    assert read_csv_paths(path) == [tmp_path / "b.png", tmp_path / "gone.png"]


def test_whole_numbers_with_a_point_are_the_numbers_they_are(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", "path,label", "a.png,0.0", "b.png,1.0", "c.png,2.0")
    assert read_source(tmp_path / "t.csv").classes == ("0", "1", "2")
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert [s.label for s in read_source(tmp_path / "t.csv").splits["all"]] == [0, 1, 2]
    (tmp_path / "classes.txt").unlink()
    write_csv(tmp_path / "v.csv", "path,label", "a.png,v1.0", "b.png,v2.0")
    assert read_source(tmp_path / "v.csv").classes == ("v1.0", "v2.0")


def test_labels_that_are_empty_in_every_row_are_one_clear_message(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", "path,labels", "a.png,", "b.png,")
    with pytest.raises(UserError, match=r"t\.csv names no class in any row"):
        read_source(tmp_path / "t.csv")


def test_empty_columns_without_a_name_are_nothing(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", "path,label,,", "a.png,x,,", "b.png,y,,")
    assert read_source(tmp_path / "t.csv").classes == ("x", "y")
    write_csv(tmp_path / "u.csv", "path,label,", "a.png,x,", "b.png,y,z")
    with pytest.raises(UserError, match=r"u\.csv, line 3 has 'z' in a column without a name"):
        read_source(tmp_path / "u.csv")
