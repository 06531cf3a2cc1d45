"""SD2's tokenizers, as ComfyUI constructs them."""

from sd2_clip.sd2.sd2_tokenizer import SD2ClipHTokenizer, SD2Tokenizer

START, END, PAD = 49_406, 49_407, 0
CAT, A = 2368, 320  # "cat</w>", "a</w>"


def test_constructors_take_what_comfyui_passes() -> None:
    tokenizer = SD2Tokenizer(embedding_directory=None, tokenizer_data={})
    assert isinstance(tokenizer.clip_h, SD2ClipHTokenizer)
    assert tokenizer.state_dict() == {}
    assert (tokenizer.clip_h.start_token, tokenizer.clip_h.end_token) == (START, END)
    assert tokenizer.clip_h.pad_token == PAD
    assert tokenizer.clip_h.tokenizer("cat")["input_ids"] == [START, CAT, END]
    assert tokenizer.decode([START, A, CAT, END]) == "a cat"


def test_tokenizer_data_may_name_another_class() -> None:
    class Other(SD2ClipHTokenizer):
        pass

    tokenizer = SD2Tokenizer(tokenizer_data={"clip_h_tokenizer_class": Other})
    assert type(tokenizer.clip_h) is Other
