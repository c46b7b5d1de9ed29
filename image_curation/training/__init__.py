"""A release, plain tars or class folders -> a trained image classifier: DALI pipelines, loaders, the loop, the model.

| file | what |
|---|---|
| `dataset` | a place -> labelled images: file, offset, size, key and class of each |
| `readable` | images that DALI could not decode -> left out, with the reason |
| `views` | a dataset -> index files for DALI's webdataset reader |
| `pipelines` | index files or files -> decoded, augmented, normalized batches |
| `squares` | images of a batch -> all of one size, on a CPU |
| `loaders`, `proxy` | pipelines -> epochs of batches, which can be resumed |
| `loop` | a dataset and a configuration -> a trained model, on one process or many |
"""
