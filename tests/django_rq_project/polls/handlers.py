import os


def note(job, kind, value, traceback):
    with open(f"{os.environ['SHOP_FILE']}.noted", "a") as file:
        file.write(f"{job.func_name} {kind.__name__}\n")
    return True
